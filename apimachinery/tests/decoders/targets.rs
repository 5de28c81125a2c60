//! What must hold of the readers of foreign bytes, whatever the bytes are: none panics, and what one has read it writes and reads again.
//!
//! `cargo test` runs these with mutations of examples; `make fuzz` runs the same ones under libFuzzer, whose crate includes this file.

use std::collections::BTreeMap;

use apimachinery::protobuf::{self, envelope};
use apimachinery::schema::canonical::{Empties, canonicalize};
use apimachinery::schema::{self, TypeId, decode};
use apimachinery::selector::{field, label};
use apimachinery::{cron, json, patch, quantity, time, yaml};

pub type Target = fn(&[u8]);

pub const TARGETS: &[(&str, Target)] = &[
    ("json", read_json),
    ("yaml", read_yaml),
    ("protobuf", read_protobuf),
    ("selectors", read_selectors),
    ("patches", apply_patches),
    ("schema", decode_objects),
    ("scalars", read_scalars),
];

fn builtin_type(name: &str) -> TypeId {
    schema::builtin().lookup(name).expect("a built-in type")
}

pub fn read_json(data: &[u8]) {
    let Ok((value, _)) = json::parse(data) else { return };
    let written = json::to_vec(&value);
    let (again, repeated) = json::parse(&written).expect("what is written can be read");
    // A whole number is written as one, whatever it was read from.
    assert_eq!(json::to_vec(&again), written);
    assert!(repeated.is_empty(), "a field is written once");
}

pub fn read_yaml(data: &[u8]) {
    let Ok(parsed) = yaml::parse(data) else { return };
    let written = yaml::to_string(&parsed.value);
    let again = yaml::parse(written.as_bytes()).expect("what is written can be read");
    assert_eq!(json::to_string(&again.value), json::to_string(&parsed.value), "{written}");
}

pub fn read_protobuf(data: &[u8]) {
    let builtin = protobuf::builtin();
    if let Some((frame, _)) = envelope::split_frame(data) {
        // Whether it is an event is told; that is all.
        let _ = envelope::watch_event(frame);
    }
    let _ = envelope::partial_object_metadata(data);
    let Ok(object) = builtin.decode_object(data) else { return };
    let Ok(written) = builtin.encode_object(&object) else { return };
    assert_eq!(builtin.decode_object(&written).expect("what is written can be read"), object);
}

pub fn read_selectors(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
    if let Ok(selector) = label::Selector::parse(&text) {
        let again = label::Selector::parse(&selector.to_string()).expect("what is written can be read");
        assert_eq!(again.matches(&labels), selector.matches(&labels), "{selector}");
        assert_eq!(again.to_string(), selector.to_string());
    }
    if let Ok(selector) = field::Selector::parse(&text) {
        let again = field::Selector::parse(&selector.to_string()).expect("what is written can be read");
        assert_eq!(again.to_string(), selector.to_string());
        let _ = selector.matches(|name| name.to_owned().into());
    }
}

/// An object and a patch, which a line's end divides.
pub fn apply_patches(data: &[u8]) {
    let Some(end) = data.iter().position(|b| *b == b'\n') else { return };
    let (Ok((object, _)), Ok((patch, _))) = (json::parse(&data[..end]), json::parse(&data[end + 1..])) else { return };
    if let Ok((operations, _)) = patch::json::Patch::decode(&patch, false) {
        let _ = operations.apply(&object);
    }
    if let Ok(merged) = patch::merge::apply(&object, &patch, false)
        && let Ok(again) = patch::merge::apply(&merged, &patch, false)
    {
        assert_eq!(again, merged, "the same merge again changes nothing");
    }
    for name in ["io.k8s.api.core.v1.Pod", "io.k8s.api.apps.v1.Deployment", "io.k8s.api.core.v1.Service"] {
        let _ = patch::strategic::apply(schema::builtin(), builtin_type(name), &object, &mut patch.clone());
    }
}

/// An object of the type that the first byte chooses.
pub fn decode_objects(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let names = [
        "io.k8s.api.core.v1.Pod",
        "io.k8s.api.apps.v1.Deployment",
        "io.k8s.api.core.v1.Service",
        "io.k8s.api.core.v1.ConfigMap",
        "io.k8s.api.networking.v1.NetworkPolicy",
        "io.k8s.api.batch.v1.CronJob",
    ];
    let (types, id) = (schema::builtin(), builtin_type(names[*choice as usize % names.len()]));
    let Ok((mut value, _)) = json::parse(text) else { return };
    if decode::decode(types, id, &mut value).is_err() {
        return;
    }
    canonicalize(types, id, &mut value, Empties::Drop);
    let mut again = value.clone();
    assert_eq!(decode::decode(types, id, &mut again).expect("it was decoded before"), Vec::<String>::new());
    canonicalize(types, id, &mut again, Empties::Drop);
    assert_eq!(again, value, "the canonical form is that of itself");
}

pub fn read_scalars(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(quantity) = quantity::Quantity::parse(&text) {
        let canonical = quantity.canonical();
        let again = quantity::Quantity::parse(&canonical).expect("what is written can be read");
        assert_eq!(again.canonical(), canonical, "{text}");
        let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64(), quantity.plus(&again).canonical());
    }
    if let Ok(nanoseconds) = time::parse_duration(&text) {
        assert_eq!(time::parse_duration(&time::format_duration(nanoseconds)), Ok(nanoseconds), "{text}");
        let _ = (time::human_duration(nanoseconds), time::short_human_duration(nanoseconds));
    }
    if let Ok(moment) = time::parse_time(&text) {
        let _ = moment.to_time();
    }
    if let Ok(moment) = time::parse_micro_time(&text) {
        let _ = moment.to_micro_time();
    }
    let _ = cron::parse(&text);
}
