//! Takes settings out of the environment and of TOML tables, and gathers what is wrong with them.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write as _},
    ops::RangeInclusive,
    time::Duration,
};

use toml::{Table, Value};

/// What is wrong, one line each: `key: what is wrong; what would be right`. And beside it every key that was asked for, by its full name: what
/// the documents are compared with.
#[derive(Debug, Default)]
pub(super) struct Mistakes(pub(super) Vec<String>, pub(super) BTreeSet<String>);

impl Mistakes {
    pub(super) fn add(&mut self, key: impl Display, wrong: impl Display, right: impl Display) {
        self.0.push(format!("{key}: {wrong}; {right}"));
    }
}

/// A table of settings. What was never asked for is unknown.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    table: Table,
    asked: Vec<&'static str>,
}

impl Section {
    pub(super) fn root(table: Table) -> Self {
        Self { path: String::new(), table, asked: Vec::new() }
    }

    /// The full name of a key of this table.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    fn mistyped(&self, mistakes: &mut Mistakes, key: &str, value: &Value, right: &str) {
        mistakes.add(self.name(key), format_args!("is {}", kind(value)), right);
    }

    pub(super) fn integer(
        &mut self,
        mistakes: &mut Mistakes,
        key: &'static str,
        range: &RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = self.take(key)?;
        let right = format!("write a whole number from {} to {}", range.start(), range.end());
        match value {
            Value::Integer(number) if range.contains(&number) => return Some(number),
            Value::Integer(number) => mistakes.add(self.name(key), format_args!("{number} is out of bounds"), right),
            other => self.mistyped(mistakes, key, &other, &right),
        }
        None
    }

    pub(super) fn boolean(&mut self, mistakes: &mut Mistakes, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(value) => Some(value),
            other => {
                self.mistyped(mistakes, key, &other, "write true or false, without quotes");
                None
            }
        }
    }

    pub(super) fn text(&mut self, mistakes: &mut Mistakes, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.mistyped(mistakes, key, &other, "write a text in double quotes");
                None
            }
        }
    }

    pub(super) fn texts(&mut self, mistakes: &mut Mistakes, key: &'static str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let texts = value.as_array().and_then(|items| {
            items
                .iter()
                .map(|item| item.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned))
                .collect()
        });
        if texts.is_none() {
            let wrong = if value.is_array() { "holds an empty text, or what is no text" } else { "is no list" };
            mistakes.add(self.name(key), wrong, "write a list of texts, like [\"a\", \"b\"]");
        }
        texts
    }

    pub(super) fn duration(
        &mut self,
        mistakes: &mut Mistakes,
        key: &'static str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = self.take(key)?;
        let name = self.name(key);
        as_duration(mistakes, &name, &value, range)
    }

    pub(super) fn durations(
        &mut self,
        mistakes: &mut Mistakes,
        key: &'static str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Vec<Duration>> {
        let value = self.take(key)?;
        let name = self.name(key);
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            let wrong = if value.is_array() { "is empty" } else { "is no list" };
            mistakes.add(name, wrong, "write a list of durations, like [\"10s\", \"1m\", \"10m\", \"1h\"]");
            return None;
        };
        let read: Vec<_> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| as_duration(mistakes, &format!("{name}[{index}]"), item, range))
            .collect();
        (read.len() == items.len()).then_some(read)
    }

    /// A table within this one; an empty one where there is none.
    pub(super) fn section(&mut self, mistakes: &mut Mistakes, key: &'static str) -> Self {
        let path = self.name(key);
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                mistakes.add(&path, format_args!("is {}", kind(&other)), format_args!("write a table, [{path}]"));
                Table::new()
            }
        };
        Self { path, table, asked: Vec::new() }
    }

    /// A list of tables within this one.
    pub(super) fn sections(&mut self, mistakes: &mut Mistakes, key: &'static str) -> Option<Vec<Self>> {
        let value = self.take(key)?;
        let path = self.name(key);
        let right = format!("write one [[{path}]] for each");
        let Value::Array(items) = value else {
            mistakes.add(&path, format_args!("is {}", kind(&value)), right);
            return None;
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            match item {
                Value::Table(table) => sections.push(Self { path, table, asked: Vec::new() }),
                other => mistakes.add(path, format_args!("is {}", kind(&other)), &right),
            }
        }
        Some(sections)
    }

    /// Whatever was not asked for is a mistake.
    pub(super) fn finish(self, mistakes: &mut Mistakes) {
        mistakes.1.extend(self.asked.iter().map(|key| self.name(key)));
        for key in self.table.keys() {
            let mut right = match nearest(key, &self.asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "remove it".to_owned(),
            };
            if !right.ends_with('?') {
                let mut known = self.asked.clone();
                known.sort_unstable();
                let _ = write!(right, "; known here are {}", known.join(", "));
            }
            mistakes.add(self.name(key), "is unknown", right);
        }
    }
}

fn kind(value: &Value) -> String {
    let article = if matches!(value, Value::Integer(_) | Value::Array(_)) { "an" } else { "a" };
    format!("{article} {}", value.type_str())
}

fn as_duration(
    mistakes: &mut Mistakes,
    name: &str,
    value: &Value,
    range: &RangeInclusive<Duration>,
) -> Option<Duration> {
    let right = format!("write a duration from {} to {}, like \"10s\"", spell(*range.start()), spell(*range.end()));
    let Value::String(text) = value else {
        mistakes.add(name, format_args!("is {}", kind(value)), right);
        return None;
    };
    match parse_duration(text) {
        None => mistakes.add(name, format_args!("`{text}` is no duration"), right),
        Some(duration) if !range.contains(&duration) => {
            mistakes.add(name, format_args!("{text} is out of bounds"), right);
        }
        found => return found,
    }
    None
}

/// Reads `250ms`, `10s`, `5m`, `1h`, `2d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let millis: u64 = match text[digits..].trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// The shortest text that [`parse_duration`] reads as this.
pub(super) fn spell(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// The known name that was probably meant.
pub(crate) fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let given = given.to_lowercase();
    let close = |name: &&str| distance(&given, name);
    let best = known.iter().copied().min_by_key(close)?;
    let most = (best.len().max(given.len()) / 3).clamp(1, 4);
    (distance(&given, best) <= most).then_some(best)
}

/// How many letters have to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_a_unit() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("250ms"), Some(250));
        assert_eq!(millis("10s"), Some(10_000));
        assert_eq!(millis(" 5 m "), Some(300_000));
        assert_eq!(millis("1h"), Some(3_600_000));
        assert_eq!(millis("2d"), Some(172_800_000));
        for wrong in ["", "10", "s", "-1s", "1.5s", "10 sec", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(millis(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_duration_is_spelled_as_it_is_read() {
        for text in ["250ms", "1500ms", "10s", "90s", "5m", "1h", "2d"] {
            assert_eq!(parse_duration(text).map(spell).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["queue_events", "queue_bytes", "batch_events", "deadline"];
        assert_eq!(nearest("queue_event", &known), Some("queue_events"));
        assert_eq!(nearest("Deadlin", &known), Some("deadline"));
        assert_eq!(nearest("colour", &known), None);
    }
}
