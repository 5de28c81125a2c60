//! Truth values as Go's programs read them, in flags, annotations and parameters.

/// `strconv.ParseBool`, with its words for what is none.
pub fn parse(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truth_value_is_what_go_takes_for_one() {
        for (text, value) in [("1", true), ("True", true), ("0", false), ("f", false)] {
            assert_eq!(parse(text), Ok(value));
        }
        for text in ["", "yes", "tRUE", " true"] {
            assert_eq!(parse(text), Err(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")));
        }
    }
}
