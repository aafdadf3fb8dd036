//! JSON text that a database can hold.
//!
//! Valid JSON can hold what `jsonb` cannot: `\u0000` (PostgreSQL's text has no NUL), half a surrogate pair, numbers
//! beyond `numeric`, nesting beyond the server's stack; `SQLite` stops at 1000 levels. One such character in a customer's
//! name must not lose an event, so it is replaced in the text, without parsing the text into values. All else stays as
//! it was signed, byte for byte.

use std::borrow::Cow;

/// Deepest nesting that is taken, in levels of arrays and objects. `SQLite`'s own bound is 1000.
pub const MAX_DEPTH: usize = 512;

/// Longest number that is kept, in characters. PostgreSQL's `numeric` has at most 131 072 digits before and 16 383 after
/// the point.
pub const MAX_NUMBER_CHARACTERS: usize = 1000;

/// Greatest exponent that is kept, up or down.
pub const MAX_EXPONENT: u32 = 1000;

/// Greatest magnitude that is kept: beyond it lies what a double cannot hold, and with it most readers of JSON.
const MAX_MAGNITUDE: f64 = 1e308;

/// A number without an exponent and no longer than this is within all bounds.
const ALWAYS_FINE_CHARACTERS: usize = 300;

/// Why a JSON text cannot be made storable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonTextError {
    /// More than [`MAX_DEPTH`] levels.
    #[error("the JSON is nested more than 512 levels deep")]
    TooDeep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Quote,
    Open,
    Close,
    Number,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    classes[b'"' as usize] = Class::Quote;
    classes[b'[' as usize] = Class::Open;
    classes[b'{' as usize] = Class::Open;
    classes[b']' as usize] = Class::Close;
    classes[b'}' as usize] = Class::Close;
    classes[b'-' as usize] = Class::Number;
    let mut digit = b'0';
    while digit <= b'9' {
        classes[digit as usize] = Class::Number;
        digit += 1;
    }
    classes
};

/// Gives `text` with what a database cannot hold replaced: `\u0000` and each half of a broken surrogate pair by
/// `\ufffd`, a number out of bounds by `null`.
///
/// Bounds of a number: [`MAX_NUMBER_CHARACTERS`], [`MAX_EXPONENT`] and 10^308, so that what is left can be read by any
/// reader of JSON.
///
/// Borrows where there is nothing to replace. Text that is not JSON is no error here, and is never made into JSON:
/// whoever parses the result sees the fault.
pub fn storable(text: &str) -> Result<Cow<'_, str>, JsonTextError> {
    let bytes = text.as_bytes();
    let mut output = Output { text, written: None, copied: 0 };
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match CLASSES[usize::from(byte)] {
            Class::Other => at += 1,
            Class::Quote => at = string(bytes, at + 1, &mut output),
            Class::Open => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(JsonTextError::TooDeep);
                }
                at += 1;
            }
            Class::Close => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            Class::Number => at = number(bytes, at, &mut output),
        }
    }
    Ok(output.finish())
}

struct Output<'t> {
    text: &'t str,
    written: Option<String>,
    /// Where the part begins that is not yet in `written`.
    copied: usize,
}

impl<'t> Output<'t> {
    /// Puts `replacement` in the place of the bytes from `start` to `end`, which are all ASCII.
    #[cold]
    fn replace(&mut self, start: usize, end: usize, replacement: &str) {
        let written = self.written.get_or_insert_with(|| String::with_capacity(self.text.len()));
        written.push_str(&self.text[self.copied..start]);
        written.push_str(replacement);
        self.copied = end;
    }

    fn finish(self) -> Cow<'t, str> {
        match self.written {
            None => Cow::Borrowed(self.text),
            Some(mut written) => {
                written.push_str(&self.text[self.copied..]);
                Cow::Owned(written)
            }
        }
    }
}

/// Goes over a string's content, which begins at `at`; gives the place after the closing quote.
fn string(bytes: &[u8], mut at: usize, output: &mut Output<'_>) -> usize {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at = escape(bytes, at, output),
            _ => at += 1,
        }
    }
    at
}

/// Goes over the escape at `at`, or over two that make a pair; gives the place after.
fn escape(bytes: &[u8], at: usize, output: &mut Output<'_>) -> usize {
    let Some(unit) = unicode_escape(bytes, at) else { return at + 2 };
    match unit {
        0 | 0xdc00..=0xdfff => {}
        0xd800..=0xdbff => {
            if matches!(unicode_escape(bytes, at + 6), Some(0xdc00..=0xdfff)) {
                return at + 12;
            }
        }
        _ => return at + 6,
    }
    output.replace(at, at + 6, "\\ufffd");
    at + 6
}

/// The code unit of a whole `\u` escape at `at`.
fn unicode_escape(bytes: &[u8], at: usize) -> Option<u16> {
    let &[b'\\', b'u', ref digits @ ..] = bytes.get(at..at + 6)? else { return None };
    digits.iter().try_fold(0, |unit, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some((unit << 4) | u16::try_from(value).ok()?)
    })
}

/// Goes over the number at `start`; gives the place after.
fn number(bytes: &[u8], start: usize, output: &mut Output<'_>) -> usize {
    let mut has_exponent = false;
    let mut end = start;
    while let Some(&byte) = bytes.get(end) {
        match byte {
            b'0'..=b'9' | b'-' | b'+' | b'.' => {}
            b'e' | b'E' => has_exponent = true,
            _ => break,
        }
        end += 1;
    }
    if (has_exponent || end - start > ALWAYS_FINE_CHARACTERS) && is_out_of_bounds(&output.text[start..end]) {
        output.replace(start, end, "null");
    }
    end
}

/// Whether `token` is a number of JSON's grammar (else it must stay, lest bad JSON turns into good) beyond the bounds.
#[cold]
fn is_out_of_bounds(token: &str) -> bool {
    let (mantissa, exponent) = match token.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (token, None),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits);
    is_number
        && (token.len() > MAX_NUMBER_CHARACTERS
            || exponent.is_some_and(|exponent| exponent.parse().unwrap_or(u32::MAX) > MAX_EXPONENT)
            || token.parse::<f64>().is_ok_and(|value| value.abs() > MAX_MAGNITUDE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, de::IgnoredAny};
    use serde_json::Value;

    use super::*;

    fn is_json(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    fn value(text: &str) -> Value {
        let mut parser = serde_json::Deserializer::from_str(text);
        parser.disable_recursion_limit();
        let value = Value::deserialize(&mut parser).unwrap();
        parser.end().unwrap();
        value
    }

    fn has_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(has_nul),
            Value::Object(items) => items.iter().any(|(key, item)| key.contains('\0') || has_nul(item)),
            _ => false,
        }
    }

    fn assert_kept(text: &str) {
        assert!(matches!(storable(text), Ok(Cow::Borrowed(kept)) if kept == text), "{text}");
    }

    #[test]
    fn ordinary_text_is_borrowed() {
        assert_kept(r#" {"a": [1, -2.5, 1e10, "é\u00e9\n\"\\", true, null], "u": "\\u0000"} "#);
        assert_kept("");
    }

    #[test]
    fn a_nul_becomes_the_replacement_character() {
        assert_eq!(storable(r#"{"\u0000k":"a\u0000\u0000b"}"#).unwrap(), r#"{"\ufffdk":"a\ufffd\ufffdb"}"#);
        assert_eq!(storable(r#""\\\u0000""#).unwrap(), r#""\\\ufffd""#);
        assert_kept(r#""\u0001 \\u0000 \u00e0""#);
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character_and_a_whole_one_stays() {
        assert_kept(r#""\ud83d\ude00 \uD83D\uDE00""#);
        for (text, expected) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00""#, r#""\ufffd""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\uDBFFx\uDFFF""#, r#""\ufffdx\ufffd""#),
            (r#""\ud83d\n""#, r#""\ufffd\n""#),
            (r#""\ud83d\u0000""#, r#""\ufffd\ufffd""#),
        ] {
            assert_eq!(storable(text).unwrap(), expected);
        }
    }

    #[test]
    fn a_number_out_of_bounds_becomes_null() {
        for kept in ["0", "-0", "1e308", "-1E+308", "1e-1000", "123456789012345678901234567890", "0e1000", "[1e2,3e4]"]
        {
            assert_kept(kept);
        }
        assert_kept(&"1".repeat(300));
        assert_kept(&format!("0.{}", "1".repeat(998)));
        for lost in ["1e309", "-1e309", "1E+1001", "1e-1001", "1e99999999999999999999", "1.7e308", "0e1001"] {
            assert_eq!(storable(lost).unwrap(), "null", "{lost}");
            assert_eq!(storable(&format!("[{lost},\"1e999\"]")).unwrap(), "[null,\"1e999\"]");
        }
        assert_eq!(storable(&"1".repeat(310)).unwrap(), "null");
        assert_eq!(storable(&format!("0.{}", "1".repeat(999))).unwrap(), "null");
    }

    #[test]
    fn what_is_not_json_is_not_made_json() {
        for text in ["1e9999e", "01e9999", "1.e9999", "1e", "--1e9999", ".5e9999", "1e9999\"", "\"\\", "\"\\u00", "]]["]
        {
            assert!(!is_json(text), "{text}");
            assert!(!is_json(&storable(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn nesting_is_taken_up_to_512_levels() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_kept(&nested(512));
        assert_eq!(storable(&nested(513)), Err(JsonTextError::TooDeep));
        assert_eq!(storable(&"{\"a\":".repeat(100_000)), Err(JsonTextError::TooDeep));
        assert_kept(&format!("[{}]", vec!["[{}]"; 2000].join(",")));
        assert_kept(&format!("\"{}\"", "[".repeat(2000)));
    }

    /// A JSON text and whether anything in it must be replaced.
    fn json() -> impl Strategy<Value = (String, bool)> {
        let string = proptest::collection::vec(
            prop_oneof![
                4 => "[ -!#-\\[\\]-~é😀]{0,8}".prop_map(|text| (text, false)),
                1 => prop_oneof![r"\\\\", "\\\\\"", r"\\/", r"\\n", r"\\u00e9", r"\\ud83d\\ude00", r"\\uDBFF\\uDFFF", r"\\\\u0000"]
                    .prop_map(|text| (text, false)),
                1 => prop_oneof![r"\\u0000", r"\\ud800x", r"\\uDfFf"].prop_map(|text| (text, true)),
            ],
            0..5,
        )
        .prop_map(|parts| {
            // A pair of halves that meet would be whole; the `x` keeps a high half apart.
            let text = parts.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().concat();
            (format!("\"{text}\""), parts.iter().any(|&(_, bad)| bad))
        });
        let number = prop_oneof![
            (r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?", Just(false)),
            (r"-?[1-9][0-9]{310,1100}", Just(true)),
            (r"-?[0-9]\.[0-9]{0,9}[1-9]([eE][+-]?[1-9][0-9]{3,12}[1-9])", Just(true)),
        ];
        let word = (prop_oneof!["null", "true", "false"], Just(false));
        prop_oneof![string.clone(), number, word].prop_recursive(6, 40, 5, move |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..5).prop_map(|items| {
                let bad = items.iter().any(|&(_, bad)| bad);
                (format!("[{}]", items.into_iter().map(|(text, _)| text).collect::<Vec<_>>().join(" , ")), bad)
            });
            let object = proptest::collection::vec((string.clone(), inner), 0..5).prop_map(|items| {
                let bad = items.iter().any(|((_, key), (_, value))| *key || *value);
                let items = items.into_iter().map(|((key, _), (value, _))| format!("{key}:\n{value}"));
                (format!("{{{}}}", items.collect::<Vec<_>>().join(",")), bad)
            });
            prop_oneof![list, object]
        })
    }

    proptest! {
        #[test]
        fn the_result_can_be_read_and_holds_no_nul((text, bad) in json(), levels in 0_usize..400) {
            let text = format!("{}{text}{}", "[".repeat(levels), "]".repeat(levels));
            let result = storable(&text).unwrap();
            prop_assert!(!has_nul(&value(&result)));
            prop_assert_eq!(matches!(result, Cow::Owned(_)), bad, "{}", text);
            if !bad {
                prop_assert_eq!(&*result, &*text);
            }
            assert_kept(&result);
        }

        #[test]
        fn any_text_is_json_afterwards_exactly_if_it_was_before(
            text in "(\\[|\\]|\\{|\\}|\"|,|:|\\\\|\\\\u|0000|d83d|\\\\ude00|1|0|-|e|e9999|\\.|null|nu|ll| |é){0,24}"
        ) {
            prop_assert_eq!(is_json(&storable(&text).unwrap()), is_json(&text));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = storable(&text);
        }
    }
}
