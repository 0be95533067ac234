//! What may change while requests run: how the pods of a pool are chosen, and for whom.
//!
//! One document, wherever it comes from: keys of the plugin configuration, metadata of a route ([`route`]),
//! or a page that is fetched. It is read once into values that cannot be wrong; a bad one leaves the last
//! good one in force.

pub mod backends;
pub mod criticality;
pub mod document;
pub mod error;
pub mod metadata;
pub mod models;
pub mod object;
pub mod page;
pub mod route;

use crate::{MILLISECOND, Micros};

use self::backends::Backend;
use self::document::Value;
use self::error::SettingError;
use self::models::Models;
use self::object::{Object, UnknownKeys};

/// How pods are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// By load only. Its other name, `DEFAULT`, is that of the reference; it is not the default here.
    LoadOnly,
    /// By load, and by the prefixes that each pod holds.
    #[default]
    PrefixCache,
}

impl Strategy {
    const WORDS: [(&str, Strategy); 3] = [
        ("PREFIX_CACHE", Strategy::PrefixCache),
        ("LOAD_ONLY", Strategy::LoadOnly),
        ("DEFAULT", Strategy::LoadOnly),
    ];

    /// The strategy of that name.
    pub fn parse(name: &str) -> Option<Strategy> {
        Strategy::WORDS.iter().find(|(word, _)| *word == name).map(|&(_, strategy)| strategy)
    }

    /// Its name in a document.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::PrefixCache => "PREFIX_CACHE",
            Strategy::LoadOnly => "LOAD_ONLY",
        }
    }
}

/// The settings of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// How pods are chosen.
    pub strategy: Strategy,
    /// A request for which no pod can be named is left to the fallback cluster (`true`) or answered 503
    /// (`false`).
    pub fail_open: bool,
    /// Percent of the prompts that are routed by load alone, as samples of plain routing.
    pub plain_percent: u64,
    /// The backends of the route's rule, where it has several: each has its share, whatever its pods hold.
    pub backends: Vec<Backend>,
    /// A pod is free, for requests that may be shed, while what waits there takes less than this.
    pub shed_above: Micros,
    /// The header that names the tenant of a request; then tenants have fair shares.
    pub tenant_header: Option<String>,
    /// Whether requests get a `priority` for vLLM's scheduler.
    pub sets_priority: bool,
    /// What becomes of the model names that clients ask for, and how much each matters.
    pub models: Models,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            strategy: Strategy::PrefixCache,
            fail_open: true,
            plain_percent: 0,
            backends: Vec::new(),
            shed_above: 100 * MILLISECOND,
            tenant_header: None,
            sets_priority: false,
            models: Models::default(),
        }
    }
}

impl PoolSettings {
    /// Reads the settings among the keys of `document`; those that it leaves out are of `default`. Other keys
    /// are for others to read.
    ///
    /// # Errors
    /// [`SettingError`] names the key and the fix.
    pub fn read(document: &mut Object<'_>, default: &PoolSettings) -> Result<PoolSettings, SettingError> {
        Ok(PoolSettings {
            strategy: document.word("strategy", &Strategy::WORDS)?.unwrap_or(default.strategy),
            fail_open: document.flag("fail_open")?.unwrap_or(default.fail_open),
            plain_percent: document
                .whole("plain_percent", 0, 50)?
                .map_or(default.plain_percent, |percent| percent as u64),
            backends: default.backends.clone(),
            shed_above: document
                .whole("shed_above_ms", 0, 60_000)?
                .map_or(default.shed_above, |ms| ms as u64 * MILLISECOND),
            tenant_header: header(document)?.or_else(|| default.tenant_header.clone()),
            sets_priority: document.flag("set_priority")?.unwrap_or(default.sets_priority),
            models: Models::read(document, &default.models)?,
        })
    }

    /// Reads a document that has nothing else.
    ///
    /// # Errors
    /// [`SettingError`] names the key and the fix.
    pub fn parse(
        document: &Value,
        default: &PoolSettings,
        unknown: UnknownKeys,
    ) -> Result<PoolSettings, SettingError> {
        let mut document = Object::document(document, unknown)?;
        // Where its schema is, for editors.
        document.text("$schema")?;
        let settings = PoolSettings::read(&mut document, default)?;
        document.end()?;
        Ok(settings)
    }

    /// What they say, for the log.
    pub fn summary(&self) -> String {
        let (models, objectives) = self.models.counts();
        format!(
            "{}, fail_open {}, {models} models, {objectives} objectives",
            self.strategy.name(),
            self.fail_open
        )
    }
}

/// The name of the header of tenants, in lower case as Envoy has it.
fn header(document: &mut Object<'_>) -> Result<Option<String>, SettingError> {
    let Some(name) = document.text("tenant_header")? else { return Ok(None) };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
        let fix = "write 1 to 128 letters, digits, '-' or '_'";
        return document.refuse("tenant_header", format!("is {name:?}, which is no name of a header; {fix}"));
    }
    Ok(Some(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<PoolSettings, String> {
        let document = Value::parse(json.as_bytes()).unwrap();
        let settings = PoolSettings::parse(&document, &PoolSettings::default(), UnknownKeys::Refused);
        settings.map_err(|error| error.to_string())
    }

    #[test]
    fn all_keys_have_defaults() {
        assert_eq!(parse("{}"), Ok(PoolSettings::default()));
        let settings =
            PoolSettings { strategy: Strategy::LoadOnly, fail_open: false, ..PoolSettings::default() };
        assert_eq!(parse(r#"{"strategy": "DEFAULT", "fail_open": false}"#), Ok(settings.clone()));
        let kept = PoolSettings::parse(
            &Value::parse(br#"{"fail_open": true}"#).unwrap(),
            &settings,
            UnknownKeys::Refused,
        )
        .unwrap();
        assert_eq!(kept, PoolSettings { fail_open: true, ..settings });
    }

    #[test]
    fn an_error_names_its_key() {
        let error = |json: &str| parse(json).unwrap_err();
        assert!(
            error(r#"{"strategy": "FASTEST"}"#)
                .starts_with("`strategy` is \"FASTEST\"; use \"PREFIX_CACHE\" or")
        );
        assert!(error(r#"{"fail_open": "yes"}"#).starts_with("`fail_open` is a text; write true or false"));
        assert!(
            error(r#"{"tenant_header": "x tenant"}"#)
                .starts_with("`tenant_header` is \"x tenant\", which is")
        );
        assert!(error(r#"{"strategies": 1}"#).starts_with("`strategies` is no setting"));
    }
}
