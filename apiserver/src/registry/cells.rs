//! Cells that several groups share: the containers of a pod template, lists that are cut short.

use std::borrow::Cow;

use serde_json::Value;

use super::read::{at, list_at, str_at};
use super::{Column, Description, printer};

/// `Containers`, with `-o wide`.
pub const CONTAINERS: Column = printer::wide("Containers", Description::Text("Names of each container in the template."));

/// `Images`, with `-o wide`.
pub const IMAGES: Column = printer::wide("Images", Description::Text("Images referenced by each container in the template."));

/// The names and the images of the containers of the pod template at `template`, each joined by commas.
pub fn containers_and_images(object: &Value, template: &str) -> (Value, Value) {
    let containers = list_at(at(object, template), "/spec/containers");
    let join = |field: &str| {
        let values: Vec<&str> = containers.iter().map(|container| str_at(container, field)).collect();
        Value::String(values.join(","))
    };
    (join("/name"), join("/image"))
}

/// The first `max` items, and how many more there are; `<unset>` without items.
pub fn first_few<'a>(items: impl Iterator<Item = Cow<'a, str>>, max: usize) -> String {
    let mut shown: Vec<Cow<'a, str>> = Vec::new();
    let mut count = 0usize;
    for item in items {
        count += 1;
        if shown.len() < max {
            shown.push(item);
        }
    }
    let text = shown.join(",");
    match (count > max, text.is_empty()) {
        (true, _) => format!("{text} + {} more...", count - max),
        (false, true) => "<unset>".to_owned(),
        (false, false) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_after_a_few() {
        let items = |n: usize| (0..n).map(|i| Cow::Owned(i.to_string()));
        assert_eq!(first_few(items(0), 3), "<unset>");
        assert_eq!(first_few(items(3), 3), "0,1,2");
        assert_eq!(first_few(items(5), 3), "0,1,2 + 2 more...");
    }
}
