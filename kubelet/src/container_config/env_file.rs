//! Files of variables that `fileKeyRef` reads: a POSIX shell's assignments with single quoted values, and nothing else.

use super::Error;

/// The value of `key`; empty if the file does not have it.
pub fn value(text: &str, key: &str) -> Result<String, Error> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let invalid = |what: &str| Error::new(format!("invalid environment variable format at line {number}: {what}"));
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once('=').ok_or_else(|| invalid("missing '='"))?;
        match name.trim_end_matches([' ', '\t']) {
            "" => return Err(invalid("empty variable name")),
            trimmed if trimmed != name => return Err(invalid("whitespace before '=' is not allowed")),
            _ => {}
        }
        if rest.starts_with([' ', '\t']) {
            // A shell takes this for an empty value.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let mut rest = rest.strip_prefix('\'').ok_or_else(|| invalid("value must be enclosed in single quotes"))?;
        let mut value = String::new();
        let mut at = number;
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                value.push_str(end);
                break after;
            }
            value.push_str(rest);
            value.push('\n');
            let unclosed = || Error::new(format!("invalid environment variable format starting at line {number}: unclosed single quote"));
            (at, rest) = lines.next().ok_or_else(unclosed)?;
        };
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return Err(Error::new(format!("invalid environment variable format at line {at}: unexpected content after closing quote")));
        }
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_stands_between_single_quotes() {
        let text = "# note\n\nA='1'\n  B='two\nlines' # end\nC= 'x'\n";
        for (key, expect) in [("A", "1"), ("B", "two\nlines"), ("C", ""), ("D", "")] {
            assert_eq!(value(text, key).as_deref(), Ok(expect), "{key}");
        }
        for (text, expect) in [
            ("A", "invalid environment variable format at line 1: missing '='"),
            ("\n=x", "invalid environment variable format at line 2: empty variable name"),
            ("A ='x'", "invalid environment variable format at line 1: whitespace before '=' is not allowed"),
            ("A=x", "invalid environment variable format at line 1: value must be enclosed in single quotes"),
            ("A='x", "invalid environment variable format starting at line 1: unclosed single quote"),
            ("A='x\n'y", "invalid environment variable format at line 2: unexpected content after closing quote"),
        ] {
            assert_eq!(value(text, "A"), Err(Error::new(expect)), "{text}");
        }
    }
}
