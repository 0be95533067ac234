//! What `--sweep` may change of ours: the constants of the cost, and the interval of the scrapes.

use std::str::FromStr;

use warmpath::decide::cost::CostConstants;

/// What may be other than in Envoy.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Constants of the cost.
    pub constants: CostConstants,
    /// Milliseconds between two scrapes of a pod; also without traffic, if that is longer.
    pub scrape_ms: f32,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { constants: CostConstants::default(), scrape_ms: 100.0 }
    }
}

/// Other values of one constant, each for a run of its own.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// What reports call each run, and how it is tuned.
    pub(super) runs: Vec<(String, Tuning)>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        // All but the last are the same in every run.
        let (fixed, swept) = text.rsplit_once('/').unwrap_or(("", text));
        let mut base = Tuning::default();
        for part in fixed.split('/').filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or("write it as backlog_weight=2/own_work_weight=0,0.5")?;
            set(&mut base, name, value)?;
        }
        let (name, values) = swept.split_once('=').ok_or("write it as own_work_weight=0,0.5,2")?;
        let said = text.rsplit_once('=').map_or(name, |(said, _)| said);
        let runs = values
            .split(',')
            .map(|value| {
                let mut tuning = base;
                let value = set(&mut tuning, name, value)?;
                Ok((format!("{said}={value}"), tuning))
            })
            .collect::<Result<_, String>>()?;
        Ok(Sweep { runs })
    }
}

/// A constant's name and its place.
type Constant = (&'static str, fn(&mut Tuning) -> &mut f32);

/// All constants of the cost, and the interval of the scrapes.
const CONSTANTS: [Constant; 15] = [
    ("own_work_weight", |t| &mut t.constants.own_work_weight),
    ("backlog_weight", |t| &mut t.constants.backlog_weight),
    ("local_queue_share", |t| &mut t.constants.local_queue_share),
    ("per_inflight_tokens", |t| &mut t.constants.per_inflight_tokens),
    ("eviction_weight", |t| &mut t.constants.eviction_weight),
    ("kv_occupancy_tokens", |t| &mut t.constants.kv_occupancy_tokens),
    ("no_room_tokens", |t| &mut t.constants.no_room_tokens),
    ("kv_wait_tokens", |t| &mut t.constants.kv_wait_tokens),
    ("popular_discount", |t| &mut t.constants.popular_discount),
    ("expected_answer_tokens", |t| &mut t.constants.expected_answer_tokens),
    ("first_token_lag_tokens", |t| &mut t.constants.first_token_lag_tokens),
    ("believed_capacity", |t| &mut t.constants.believed_capacity),
    ("tie_band", |t| &mut t.constants.tie_band),
    ("adapter_load_seconds", |t| &mut t.constants.adapter_load_seconds),
    ("scrape_ms", |t| &mut t.scrape_ms),
];

impl Sweep {
    /// Every constant and its value.
    pub fn constants() -> impl Iterator<Item = (&'static str, f32)> {
        CONSTANTS.iter().map(|(name, place)| (*name, *place(&mut Tuning::default())))
    }
}

fn set(tuning: &mut Tuning, name: &str, value: &str) -> Result<f32, String> {
    let Some((_, place)) = CONSTANTS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = CONSTANTS.iter().map(|(name, _)| *name).collect();
        return Err(format!("{name:?} is no constant; use one of {}", names.join(", ")));
    };
    let place = place(tuning);
    *place = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok(*place)
}
