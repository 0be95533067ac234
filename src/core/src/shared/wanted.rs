//! Which clusters requests go to: noted by the routers, asked for by whoever discovers.

use crate::shared::store::{Contended, NEVER_WRITTEN, SharedData, compare_and_swap, update};

/// Marks the names of wanted clusters, and the version of their format.
const WANTED_MARK: &str = "WPW1";

/// Most clusters that are wanted at a time; requests to others go unrouted. A pod's place among the
/// candidates is a bit for each.
pub const MOST: usize = 128;
/// Longest name that is wanted, in bytes.
pub const LONGEST: usize = 512;

/// Why a cluster is not noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNoted {
    /// It is wanted already.
    Already,
    /// [`MOST`] others are wanted.
    Full,
    /// Its name is too long, empty, or has characters that no control plane gives.
    Unfit,
    /// Other workers wrote first at every try.
    Contended,
}

impl From<Contended> for NotNoted {
    fn from(_: Contended) -> Self {
        NotNoted::Contended
    }
}

/// Notes that requests go to the cluster `name`.
///
/// # Errors
/// [`NotNoted`] when it is not noted now.
pub fn note(key: &str, name: &[u8], shared: &mut impl SharedData) -> Result<(), NotNoted> {
    let name = std::str::from_utf8(name).ok().filter(|name| is_fit(name)).ok_or(NotNoted::Unfit)?;
    compare_and_swap(shared, key, |bytes, _| {
        let mut names = decode(bytes);
        if names.iter().any(|other| other == name) {
            return Err(NotNoted::Already);
        }
        if names.len() >= MOST {
            return Err(NotNoted::Full);
        }
        names.push(name.to_owned());
        Ok((encode(&names), ()))
    })?;
    Ok(())
}

/// The cluster `name` does not exist: the next request to it has to note it again. If other workers write
/// first at every try, it stays until the next call.
pub fn forget(key: &str, name: &str, shared: &mut impl SharedData) {
    let _ = update(shared, key, |bytes| {
        let mut names = decode(bytes);
        names.retain(|other| other != name);
        (encode(&names), ())
    });
}

/// The names that are wanted, and the version of their list.
pub fn read(key: &str, shared: &impl SharedData) -> (Vec<String>, u32) {
    let (bytes, version) =
        shared.get(key).map_or((None, NEVER_WRITTEN), |(bytes, version)| (Some(bytes), version));
    (decode(bytes), version)
}

fn is_fit(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len()) && !name.contains(char::is_control)
}

fn encode(names: &[String]) -> String {
    format!("{WANTED_MARK}\n{}", names.join("\n"))
}

fn decode(bytes: Option<Vec<u8>>) -> Vec<String> {
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let Some(names) = text.strip_prefix(WANTED_MARK).and_then(|rest| rest.strip_prefix('\n')) else {
        return Vec::new();
    };
    names.lines().filter(|name| is_fit(name)).take(MOST).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;

    #[test]
    fn names_are_noted_once_and_forgotten() {
        let mut shared = Map::default();
        assert_eq!(read("w", &shared).0, [""; 0]);
        assert_eq!(note("w", b"httproute/default/chat/rule/0", &mut shared), Ok(()));
        assert_eq!(note("w", b"httproute/default/chat/rule/0", &mut shared), Err(NotNoted::Already));
        assert_eq!(note("w", b"outbound|8000||vllm", &mut shared), Ok(()));
        assert_eq!(read("w", &shared).0, ["httproute/default/chat/rule/0", "outbound|8000||vllm"]);
        forget("w", "httproute/default/chat/rule/0", &mut shared);
        assert_eq!(read("w", &shared).0, ["outbound|8000||vllm"]);
    }

    #[test]
    fn they_are_bounded() {
        let mut shared = Map::default();
        for name in [&b""[..], b"a\nb", b"\xff", &[b'a'; LONGEST + 1]] {
            assert_eq!(note("w", name, &mut shared), Err(NotNoted::Unfit));
        }
        for nth in 0..MOST {
            assert_eq!(note("w", nth.to_string().as_bytes(), &mut shared), Ok(()));
        }
        assert_eq!(note("w", b"one more", &mut shared), Err(NotNoted::Full));
        assert_eq!(read("w", &shared).0.len(), MOST);
    }

    #[test]
    fn garbage_names_nothing_and_is_replaced() {
        for bytes in [&b"\xff"[..], b"WPW1", b"WPW0\na", b"a\nb"] {
            let mut shared = Map::default();
            shared.set("w", bytes, None).unwrap();
            assert_eq!(read("w", &shared).0, [""; 0]);
            assert_eq!(note("w", b"a", &mut shared), Ok(()));
            assert_eq!(read("w", &shared).0, ["a"]);
        }
    }
}
