//! References to variables: `$(NAME)` in values, commands, arguments and sub paths. `$$` stands for `$`.

/// Replaces every reference by what `value` has for its name; what it does not know stays as it is.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    expand_or(text, |name| value(name).unwrap_or_else(|| format!("$({name})")))
}

/// Replaces every reference by what `value` says.
pub fn expand_or(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            out.push_str(&value(name));
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_everything_else_stays() {
        let value = |name: &str| (name == "A").then(|| "x".to_owned());
        let cases = [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "x"),
            ("a$(A)b$(A)", "axbx"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("$$$$(A)", "$$(A)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$(A)$", "x$"),
            ("$()", "$()"),
            ("$é", "$é"),
        ];
        for (text, expect) in cases {
            assert_eq!(expand(text, value), expect, "{text}");
        }
    }
}
