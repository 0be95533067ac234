//! The settings of a page that is fetched again and again: the collector reads it, and the workers take over
//! what it has read.

use std::sync::Arc;

use crate::request::blocks::hash_of;
use crate::settings::PoolSettings;
use crate::settings::document::Value;
use crate::settings::error::SettingError;
use crate::settings::object::UnknownKeys;
use crate::shared::documents::{self, LONGEST};
use crate::shared::store::SharedData;

/// The name of the page's document among those that are shared.
const NAME: &str = "page";

/// The page, as whoever collects sees it.
#[derive(Debug)]
pub struct SettingsPage {
    /// Where the last good document is shared.
    key: String,
    /// The values of keys that the page leaves out.
    configured: Arc<PoolSettings>,
    /// Hash of the last page.
    seen: Option<u64>,
    /// What the last good page said.
    in_force: Option<PoolSettings>,
    refused: bool,
}

/// What is new of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageNews {
    /// Nothing.
    Nothing,
    /// The settings have changed, or a bad page is good again.
    Taken {
        /// What they say.
        summary: String,
    },
    /// The page is bad, and what was in force stays.
    Refused(SettingError),
}

impl SettingsPage {
    /// A page that was not seen yet; `key` is that of the documents which the workers share. What another
    /// collector has read stays in force until there is news.
    pub fn new(key: String, configured: Arc<PoolSettings>, shared: &impl SharedData) -> SettingsPage {
        let in_force = of_workers(&key, &configured, shared);
        SettingsPage { key, configured, seen: None, in_force, refused: false }
    }

    /// The page has come.
    pub fn take(&mut self, page: &[u8], shared: &mut impl SharedData) -> PageNews {
        let hash = Some(hash_of(page));
        if self.seen == hash {
            return PageNews::Nothing;
        }
        self.seen = hash;
        match read(page, &self.configured) {
            Err(error) => {
                self.refused = true;
                PageNews::Refused(error)
            }
            Ok(settings) => {
                let was_refused = std::mem::take(&mut self.refused);
                if self.in_force.as_ref() == Some(&settings) && !was_refused {
                    return PageNews::Nothing;
                }
                documents::keep(&self.key, NAME, page, shared);
                let summary = settings.summary();
                self.in_force = Some(settings);
                PageNews::Taken { summary }
            }
        }
    }

    /// Whether the last page is bad.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

/// The settings of the last good page, as every worker has them; `None` before there was one.
pub fn of_workers(key: &str, configured: &PoolSettings, shared: &impl SharedData) -> Option<PoolSettings> {
    read(&documents::find(key, NAME, shared)?, configured).ok()
}

fn read(page: &[u8], configured: &PoolSettings) -> Result<PoolSettings, SettingError> {
    if page.len() > LONGEST {
        let reason = format!("the document has {} bytes; write at most {LONGEST}", page.len());
        return Err(SettingError::new("", reason));
    }
    PoolSettings::parse(&Value::parse(page)?, configured, UnknownKeys::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Strategy;
    use crate::shared::store::Map;

    const KEY: &str = "k";

    fn configured() -> Arc<PoolSettings> {
        Arc::new(PoolSettings { fail_open: false, ..PoolSettings::default() })
    }

    fn in_force(shared: &Map) -> Option<(Strategy, bool)> {
        of_workers(KEY, &configured(), shared).map(|settings| (settings.strategy, settings.fail_open))
    }

    #[test]
    fn a_good_page_is_taken_once_and_a_bad_one_leaves_it_in_force() {
        let mut shared = Map::default();
        let mut page = SettingsPage::new(KEY.into(), configured(), &shared);
        assert_eq!(in_force(&shared), None);
        let load = br#"{"$schema": "x", "strategy": "LOAD_ONLY"}"#;
        assert!(
            matches!(page.take(load, &mut shared), PageNews::Taken { summary } if summary.contains("LOAD_ONLY"))
        );
        assert_eq!(page.take(load, &mut shared), PageNews::Nothing);
        assert_eq!(
            page.take(br#"{"strategy":"LOAD_ONLY"}"#, &mut shared),
            PageNews::Nothing,
            "the same in other words"
        );
        assert_eq!(in_force(&shared), Some((Strategy::LoadOnly, false)));
        let PageNews::Refused(error) = page.take(br#"{"strategy": "FASTEST"}"#, &mut shared) else {
            panic!()
        };
        assert_eq!((error.key.as_str(), page.is_refused()), ("strategy", true));
        assert_eq!(page.take(br#"{"strategy": "FASTEST"}"#, &mut shared), PageNews::Nothing);
        assert_eq!(in_force(&shared), Some((Strategy::LoadOnly, false)));
        assert!(matches!(page.take(load, &mut shared), PageNews::Taken { .. }), "good again");
        assert!(!page.is_refused());
    }

    #[test]
    fn another_collector_goes_on_from_what_is_in_force() {
        let mut shared = Map::default();
        let _ =
            SettingsPage::new(KEY.into(), configured(), &shared).take(br#"{"fail_open": true}"#, &mut shared);
        let mut next = SettingsPage::new(KEY.into(), configured(), &shared);
        assert_eq!(next.take(br#"{"fail_open": true}"#, &mut shared), PageNews::Nothing);
        assert!(matches!(next.take(b"{}", &mut shared), PageNews::Taken { .. }));
        assert_eq!(in_force(&shared), Some((Strategy::PrefixCache, false)));
    }

    #[test]
    fn what_is_no_document_is_refused_with_the_reason() {
        let mut shared = Map::default();
        let mut page = SettingsPage::new(KEY.into(), configured(), &shared);
        let mut error = |bytes: &[u8]| match page.take(bytes, &mut shared) {
            PageNews::Refused(error) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(error(b"").starts_with("not valid JSON"));
        assert!(error(br#"{"stratgy": 1}"#).starts_with("`stratgy` is no setting"));
        assert!(error(&vec![b' '; LONGEST + 1]).contains("bytes; write at most"));
    }
}
