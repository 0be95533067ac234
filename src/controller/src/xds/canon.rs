//! One order for the maps inside an access log's configuration.
//!
//! Envoy Gateway marshals its JSON access log anew in each translation, and the keys come in another order
//! each time. Envoy sees no change, but the bytes differ, so the whole listener is sent again, with the
//! module that stands in it. With its keys in order the listener stays the same bytes and is not sent.

use std::collections::BTreeMap;

use super::build;
use super::wire::{Message, WireError};

/// `envoy.config.accesslog.v3.AccessLog`, its `typed_config`.
const TYPED_CONFIG: u32 = 4;

/// The access log with its maps in order; one of a kind that is not known stays as it is.
///
/// # Errors
/// Where the bytes are no access log.
pub fn access_log(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut log = Message::parse(bytes)?;
    if let Some(any) = log.message(TYPED_CONFIG)?.map(std::borrow::Cow::into_owned) {
        let any = Message::parse(&any)?;
        let name = any.text(1)?.rsplit('/').next().unwrap_or_default().to_owned();
        let value = any.message(2)?.unwrap_or_default();
        if let Some(value) = logger(&name, &value)? {
            log.set_bytes(TYPED_CONFIG, build::any(&name, &value));
        }
    }
    Ok(log.encode())
}

/// The configuration of a logger with its maps in order, `None` where its kind has none or is not known.
fn logger(name: &str, bytes: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
    let (structures, formats): (&[u32], &[u32]) = match name {
        // json_format and typed_json_format; log_format.
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => (&[3, 4], &[5]),
        // log_format.
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
        | "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => (&[], &[1]),
        _ => return Ok(None),
    };
    let mut config = Message::parse(bytes)?;
    for number in structures {
        config.edit_each(*number, structure)?;
    }
    for number in formats {
        config.edit_each(*number, format)?;
    }
    Ok(Some(config.encode()))
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
fn format(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut format = Message::parse(bytes)?;
    format.edit_each(2, structure)?; // json_format
    Ok(format.encode())
}

/// `google.protobuf.Struct`, its keys in order at every depth.
fn structure(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let message = Message::parse(bytes)?;
    let mut entries = BTreeMap::new();
    for entry in message.all(1) {
        let mut entry = Message::parse(entry?)?;
        entry.edit_each(2, value)?;
        entries.insert(entry.text(1)?.to_owned(), entry.encode());
    }
    let mut ordered = message.clone();
    ordered.set_all(1, entries.into_values());
    Ok(ordered.encode())
}

/// `google.protobuf.Value`.
fn value(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut message = Message::parse(bytes)?;
    message.edit_each(5, structure)?;
    message.edit_each(6, |list| {
        let mut list = Message::parse(list)?;
        list.edit_each(1, value)?;
        Ok(list.encode())
    })?;
    Ok(message.encode())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// An access log to a file whose JSON format has its keys in the order given.
    fn log(keys: &[(&str, serde_json::Value)]) -> Vec<u8> {
        let mut object = Message::new();
        for (key, value) in keys {
            let one = build::structure(json!({*key: value}).as_object().unwrap());
            let entry = Message::parse(&one).unwrap().message(1).unwrap().unwrap().into_owned();
            object.push(1, entry);
        }
        let mut format = Message::new();
        format.set_bytes(2, object.encode()).set_bytes(4, b"application/json".to_vec());
        let mut file = Message::new();
        file.set_bytes(1, b"/dev/stdout".to_vec()).set_bytes(5, format.encode());
        let mut log = Message::new();
        log.set_bytes(1, b"envoy.access_loggers.file".to_vec());
        log.set_bytes(4, build::any("envoy.extensions.access_loggers.file.v3.FileAccessLog", &file.encode()));
        log.encode()
    }

    proptest! {
        #[test]
        fn any_order_of_the_keys_gives_the_same_bytes(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
            let keys = [
                ("start_time", json!("%START_TIME%")), ("method", json!("%REQ(:METHOD)%")), ("a", json!({"x": 1, "b": [{"d": 1, "c": 2}]})),
                ("code", json!("%RESPONSE_CODE%")), ("bytes", json!(1.5)), ("host", json!(null)),
            ];
            let shuffled: Vec<_> = order.iter().map(|i| keys[*i].clone()).collect();
            prop_assert_eq!(access_log(&log(&shuffled)).unwrap(), access_log(&log(&keys)).unwrap());
        }
    }

    #[test]
    fn a_log_of_an_unknown_kind_stays_as_it_is() {
        let mut log = Message::new();
        log.set_bytes(1, b"other".to_vec()).set_bytes(4, build::any("example.OtherLog", &[0xff, 0xff]));
        let bytes = log.encode();
        assert_eq!(access_log(&bytes), Ok(bytes));
    }

    #[test]
    fn the_order_is_that_of_the_keys_and_nothing_is_lost() {
        let bytes = access_log(&log(&[("b", json!(1)), ("a", json!("x"))])).unwrap();
        assert_eq!(bytes, log(&[("a", json!("x")), ("b", json!(1))]));
    }
}
