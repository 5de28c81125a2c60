//! Names of properties as identifiers: what an identifier cannot hold is spelled out, and words of the language get underscores.

/// Words that cannot be identifiers.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

const SPELLED: [(&str, &str); 4] = [("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")];

/// Whether a word of the language can only follow a dot.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Whether it can name a variable.
pub fn is_identifier(name: &str) -> bool {
    let starts = name.bytes().next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic());
    starts && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) && !is_reserved(name)
}

/// The identifier that stands for a property; none if there is none for it.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let (mut out, mut rest) = (String::with_capacity(name.len()), name);
    while let Some(c) = rest.chars().next() {
        if let Some((text, spelled)) = SPELLED.iter().find(|(text, _)| rest.starts_with(text)) {
            out.push_str(&format!("__{spelled}__"));
            rest = &rest[text.len()..];
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out)
}

/// The property that an identifier stands for; none if it stands for none.
pub fn unescape(identifier: &str) -> Option<String> {
    let (mut out, mut rest) = (String::with_capacity(identifier.len()), identifier);
    while let Some(at) = rest.find("__") {
        // As a match of two underscores, what is not one, and two underscores.
        let inner = &rest[at + 2..];
        let length = inner.find('_').unwrap_or(inner.len());
        if length == 0 || !inner[length..].starts_with("__") {
            let step = at + 1;
            out.push_str(&rest[..step]);
            rest = &rest[step..];
            continue;
        }
        out.push_str(&rest[..at]);
        let word = &inner[..length];
        match SPELLED.iter().find(|(_, spelled)| *spelled == word) {
            Some((text, _)) => out.push_str(text),
            None if RESERVED.contains(&word) && word.len() + 4 == identifier.len() => out.push_str(word),
            None => return None,
        }
        rest = &inner[length + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_their_identifiers() {
        for (name, identifier) in [
            ("spec", "spec"),
            ("x-y.z/w", "x__dash__y__dot__z__slash__w"),
            ("namespace", "__namespace__"),
            ("a__b", "a__underscores__b"),
            ("_x_", "_x_"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(identifier));
            assert_eq!(unescape(identifier).as_deref(), Some(name));
        }
        assert_eq!((escape("1a"), escape("a b"), escape("")), (None, None, None));
        assert_eq!(unescape("a__what__"), None);
    }
}
