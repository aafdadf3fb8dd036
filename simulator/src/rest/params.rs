//! What a request says: `a=1&items[0][price]=price_1&types[]=x&metadata[key]=value`.

use reqwest::Url;

use crate::{account::Refusal, model::Metadata};

/// Parameters that nobody has asked for yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Of a query or a form, whose encoding is the same.
    pub(super) fn parse(encoded: &str) -> Self {
        let mut url = Url::parse("http://localhost/").ok();
        if let Some(url) = &mut url {
            url.set_query(Some(encoded));
        }
        let pairs = url.iter().flat_map(Url::query_pairs).map(|(key, value)| (key.into_owned(), value.into_owned()));
        Self(pairs.filter(|(key, _)| !key.is_empty()).collect())
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let number = text.parse().map_err(|_| Refusal::invalid(format!("Invalid integer: {text}"), key))?;
        Ok(Some(number))
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(text) => Err(Refusal::invalid(format!("Invalid boolean: {text}"), key)),
        }
    }

    /// `key[]=a&key[]=b`, `key[0]=a&key[1]=b`, or both.
    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.0.retain(|(name, value)| {
            let inside = name.strip_prefix(key).and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'));
            let is = inside.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()));
            if is {
                found.push(value.clone());
            }
            !is
        });
        found
    }

    /// `key[name]=value…`
    pub(super) fn metadata(&mut self, key: &str) -> Metadata {
        let mut found = Metadata::new();
        self.0.retain(|(name, value)| {
            let inside = name.strip_prefix(key).and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'));
            if let Some(name) = inside {
                found.insert(name.to_owned(), value.clone());
            }
            inside.is_none()
        });
        found
    }

    /// `key[0][a]=1&key[0][b]=2&key[1][a]=3`: each entry with the parameters inside, in the order of the numbers.
    pub(super) fn entries(&mut self, key: &str) -> Vec<Self> {
        let mut found: std::collections::BTreeMap<u32, Self> = std::collections::BTreeMap::new();
        self.0.retain(|(name, value)| {
            let inside = name.strip_prefix(key).and_then(|rest| {
                let (index, rest) = rest.strip_prefix('[')?.split_once(']')?;
                let (field, rest) = rest.strip_prefix('[')?.split_once(']')?;
                Some((index.parse().ok()?, format!("{field}{rest}")))
            });
            let Some((index, field)) = inside else { return true };
            found.entry(index).or_default().0.push((field, value.clone()));
            false
        });
        found.into_values().collect()
    }

    /// Nothing may be left that nobody asked for.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let name = name.split('[').next().unwrap_or_default().to_owned();
                Err(Refusal::invalid(format!("Received unknown parameter: {name}"), &name)
                    .with_code("parameter_unknown"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_parameters_are_read_as_stripe_s_libraries_write_them() {
        let mut params = Params::parse(
            "customer=cus_1&items[0][price]=price_1&items%5B1%5D%5Bprice%5D=price_2&items[1][quantity]=3&types[]=a&types[]=b\
             &metadata[user_id]=7&created[gte]=5&extra=1",
        );
        assert_eq!(params.take("customer").as_deref(), Some("cus_1"));
        let mut items = params.entries("items");
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].take("price").as_deref(), Some("price_1"));
        assert_eq!(items[1].number("quantity"), Ok(Some(3)));
        assert_eq!(params.list("types"), ["a", "b"]);
        assert_eq!(params.metadata("metadata").get("user_id").map(String::as_str), Some("7"));
        assert_eq!(params.number("created[gte]"), Ok(Some(5)));
        let left = params.finish().expect_err("something is left");
        assert_eq!((left.code, left.param.as_deref()), (Some("parameter_unknown"), Some("extra")));
    }
}
