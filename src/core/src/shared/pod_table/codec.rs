//! The bytes of a pod table in shared data.

use super::{MAX_PODS, NO_ENGINE, Pod, PodAdapters, PodState, PodTable};
use crate::shared::clusters::{Cluster, ClusterSet};
use crate::shared::codec::{CodecError, Reader};
use crate::shared::wanted;
use crate::{Micros, ModelId};

/// Marks a table, and the version of its format.
const TABLE_MARK: u32 = u32::from_le_bytes(*b"WPT7");

impl PodState {
    fn encode(self) -> u8 {
        PodState::ALL.iter().position(|&state| state == self).unwrap_or_default() as u8
    }

    fn decode(number: u8) -> Result<PodState, CodecError> {
        PodState::ALL.get(usize::from(number)).copied().ok_or(CodecError::Range)
    }
}

impl PodTable {
    /// The bytes to share.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.pods.len() * 96);
        out.extend_from_slice(&TABLE_MARK.to_le_bytes());
        out.extend_from_slice(&self.published_at.0.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.last_id.to_le_bytes());
        out.extend_from_slice(&(self.pods.len() as u16).to_le_bytes());
        for pod in &self.pods {
            out.extend_from_slice(&pod.id.to_le_bytes());
            out.extend_from_slice(&pod.first_id.to_le_bytes());
            out.push(pod.address.len() as u8);
            out.extend_from_slice(pod.address.as_bytes());
            out.extend_from_slice(&pod.engine.unwrap_or(NO_ENGINE).to_le_bytes());
            out.extend_from_slice(&pod.candidate_of.0.to_le_bytes());
            out.push(pod.state.encode());
            out.extend_from_slice(&pod.started.to_le_bytes());
            out.extend_from_slice(&pod.cache_epoch.to_le_bytes());
            out.extend_from_slice(&pod.scraped_at.0.to_le_bytes());
            out.extend_from_slice(&pod.recovered_at.0.to_le_bytes());
            for amount in [pod.running, pod.waiting, pod.kv_usage, pod.foreign_running, pod.foreign_waiting] {
                out.extend_from_slice(&amount.to_le_bytes());
            }
            out.extend_from_slice(&pod.capacity.to_le_bytes());
            encode_adapters(pod.adapters.as_ref(), &mut out);
        }
        out.extend_from_slice(&(self.clusters.len() as u16).to_le_bytes());
        for cluster in &self.clusters {
            out.extend_from_slice(&(cluster.name.len() as u16).to_le_bytes());
            out.extend_from_slice(cluster.name.as_bytes());
            out.push(u8::from(cluster.steered));
        }
        out.extend_from_slice(&self.model_lists.to_le_bytes());
        out.extend_from_slice(&self.settings.to_le_bytes());
        out
    }

    /// Reads a table.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<PodTable, CodecError> {
        let mut from = Reader(bytes);
        from.mark(TABLE_MARK)?;
        let published_at = Micros(from.u64()?);
        let generation = from.u64()?;
        let last_id = from.u32()?;
        let count = usize::from(from.u16()?);
        if count > MAX_PODS {
            return Err(CodecError::Range);
        }
        let pods = (0..count).map(|_| decode_pod(&mut from)).collect::<Result<_, _>>()?;
        let count = usize::from(from.u16()?);
        if count > wanted::MOST {
            return Err(CodecError::Range);
        }
        let clusters = (0..count).map(|_| decode_cluster(&mut from)).collect::<Result<_, _>>()?;
        let (model_lists, settings) = (from.u32()?, from.u32()?);
        Ok(PodTable { published_at, generation, last_id, pods, clusters, model_lists, settings })
    }
}

fn encode_adapters(adapters: Option<&PodAdapters>, out: &mut Vec<u8>) {
    out.push(u8::from(adapters.is_some()));
    if let Some(PodAdapters { slots, active }) = adapters {
        out.extend_from_slice(&slots.to_le_bytes());
        out.extend_from_slice(&(active.len() as u16).to_le_bytes());
        active.iter().for_each(|adapter| out.extend_from_slice(&adapter.0.to_le_bytes()));
    }
}

fn decode_adapters(from: &mut Reader<'_>) -> Result<Option<PodAdapters>, CodecError> {
    match from.u8()? {
        0 => Ok(None),
        1 => {
            let (slots, count) = (from.u16()?, from.u16()?);
            let active = (0..count).map(|_| from.u32().map(ModelId)).collect::<Result<_, _>>()?;
            Ok(Some(PodAdapters { slots, active }))
        }
        _ => Err(CodecError::Range),
    }
}

fn decode_cluster(from: &mut Reader<'_>) -> Result<Cluster, CodecError> {
    let length = usize::from(from.u16()?);
    let name = std::str::from_utf8(from.bytes(length)?).map_err(|_| CodecError::Range)?.to_owned();
    Ok(Cluster { name, steered: from.u8()? != 0 })
}

fn decode_pod(from: &mut Reader<'_>) -> Result<Pod, CodecError> {
    let id = from.u32()?;
    let first_id = from.u32()?;
    let length = usize::from(from.u8()?);
    let address = std::str::from_utf8(from.bytes(length)?).map_err(|_| CodecError::Range)?.to_owned();
    Ok(Pod {
        id,
        first_id,
        address,
        engine: Some(from.u16()?).filter(|&engine| engine != NO_ENGINE),
        candidate_of: ClusterSet(u128::from(from.u64()?) | u128::from(from.u64()?) << 64),
        state: PodState::decode(from.u8()?)?,
        started: from.u64()?,
        cache_epoch: from.u32()?,
        scraped_at: Micros(from.u64()?),
        recovered_at: Micros(from.u64()?),
        running: from.amount()?,
        waiting: from.amount()?,
        kv_usage: from.amount()?,
        foreign_running: from.amount()?,
        foreign_waiting: from.amount()?,
        capacity: from.u64()?,
        adapters: decode_adapters(from)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pods() -> impl Strategy<Value = Pod> {
        (
            any::<[u32; 3]>(),
            "[0-9.:]{0,40}",
            0..PodState::ALL.len(),
            any::<([u64; 4], u128)>(),
            proptest::option::of(0..NO_ENGINE),
            prop::array::uniform5(0.0f32..1e6),
        )
            .prop_map(
                |(
                    [id, first_id, cache_epoch],
                    address,
                    state,
                    ([started, scraped_at, recovered_at, capacity], candidate_of),
                    engine,
                    [running, waiting, kv_usage, foreign_running, foreign_waiting],
                )| Pod {
                    id,
                    first_id,
                    address,
                    engine,
                    candidate_of: ClusterSet(candidate_of),
                    state: PodState::ALL[state],
                    started,
                    cache_epoch,
                    scraped_at: Micros(scraped_at),
                    recovered_at: Micros(recovered_at),
                    running,
                    waiting,
                    kv_usage,
                    foreign_running,
                    foreign_waiting,
                    capacity,
                    adapters: (cache_epoch % 2 == 1).then(|| PodAdapters {
                        slots: started as u16,
                        active: (0..id % 3).map(ModelId).collect(),
                    }),
                },
            )
    }

    proptest! {
        #[test]
        fn tables_round_trip_and_truncations_are_errors(published_at: u64, generation: u64, last_id: u32, pods in prop::collection::vec(pods(), 0..6), names in prop::collection::vec("[a-z/]{0,20}", 0..3)) {
            let clusters = names.into_iter().map(|name| Cluster { name, steered: published_at % 2 == 0 }).collect();
            let (published_at, model_lists, settings) = (Micros(published_at), last_id / 2, last_id / 3);
            let table = PodTable { published_at, generation, last_id, pods, clusters, model_lists, settings };
            let bytes = table.encode();
            prop_assert_eq!(PodTable::decode(&bytes), Ok(table));
            for end in 0..bytes.len() {
                prop_assert_eq!(PodTable::decode(&bytes[..end]), Err(CodecError::Truncated));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mark = TABLE_MARK.to_le_bytes();
            let marked = bytes.len().min(4);
            bytes[..marked].copy_from_slice(&mark[..marked]);
            let _ = PodTable::decode(&bytes);
        }
    }
}
