//! Reading JSON that may be any shape: a missing, null or wrongly typed field is absent, never an error.
//!
//! Stripe adds fields, makes fields expandable and moves them between API versions, and old versions stay in use; an
//! event must not be lost for a field this program does not know. Each type here takes any JSON value and keeps it only
//! if it fits. Values are read straight from the text; what is not kept is skipped without being built.
//!
//! The one error left is the parser's own: text that is not JSON (for that matter half a surrogate pair and a number
//! beyond a double, which [`json_text::storable`](crate::json_text::storable) replaces). Depth costs no stack, since
//! what is skipped is skipped by `IgnoredAny`, which `serde_json` reads in a loop.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// What can be made of a JSON value of some types, and of all others not.
///
/// Each method is offered a value of one JSON type and may take it; none is taken unless a method is overridden. The
/// only errors are those of the `map` and `seq` themselves.
pub trait Lenient: Sized {
    /// Takes a string.
    fn from_text(_: Cow<'_, str>) -> Option<Self> {
        None
    }

    /// Takes a boolean.
    fn from_flag(_: bool) -> Option<Self> {
        None
    }

    /// Takes a number without a point or an exponent.
    fn from_int(_: i128) -> Option<Self> {
        None
    }

    /// Takes any other number.
    fn from_float(_: f64) -> Option<Self> {
        None
    }

    /// Takes an object; must read it to its end.
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        skip_map(map)?;
        Ok(None)
    }

    /// Takes an array; must read it to its end.
    fn from_seq<'de, A: SeqAccess<'de>>(seq: A) -> Result<Option<Self>, A::Error> {
        skip_seq(seq)?;
        Ok(None)
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads any value as a `T`, or as `None` where it is of another type.
pub fn read<'de, T: Lenient, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(AnyValue(PhantomData))
}

struct AnyValue<T>(PhantomData<T>);

impl<'de, T: Lenient> Visitor<'de> for AnyValue<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::from_flag(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(T::from_int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(T::from_int(value.into()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Self::Value, E> {
        Ok(T::from_int(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Self::Value, E> {
        Ok(i128::try_from(value).ok().and_then(T::from_int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(T::from_float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(T::from_text(Cow::Borrowed(value)))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        Ok(T::from_text(Cow::Owned(value)))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        read(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        read(deserializer)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::from_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        T::from_seq(seq)
    }
}

/// A value's key, turned into `F` by a function so that no key is ever copied.
///
/// For [`lenient_struct`]; of no use by itself.
#[doc(hidden)]
#[derive(Debug)]
pub struct Key<F>(pub fn(&str) -> F);

impl<'de, F> DeserializeSeed<'de> for Key<F> {
    type Value = F;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<F, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<F> Visitor<'_> for Key<F> {
    type Value = F;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<F, E> {
        Ok((self.0)(key))
    }
}

/// Makes a struct of lenient fields that can be read from any JSON value.
///
/// serde's derived `Deserialize` fails where a key comes twice and where the value is not an object; here the last of
/// equal keys wins, as in `jsonb`, unknown keys are skipped, and what is not an object leaves all fields at their
/// defaults. Use the struct as `Obj<Name>` where it matters whether there was an object.
///
/// Every field's type must be `Default + DeserializeOwned` and itself never fail, as the types of this module and other
/// lenient structs. A field's key is its name, or the literal after `=`. The struct is `Debug + Clone + Default`, the
/// [`Lenient`] and `Deserialize` implementations come with it:
///
/// ```text
/// lenient_struct! {
///     /// A subscription as Stripe sends it.
///     #[derive(PartialEq)]
///     pub struct RawSubscription {
///         pub id: Text,
///         pub kind: Text = "object",
///         pub items: Listing<RawItem>,
///     }
/// }
/// ```
macro_rules! lenient_struct {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty $(= $key:literal)?),* $(,)?
        }
    ) => {
        #[derive(Debug, Clone, Default)]
        $(#[$meta])*
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        }

        const _: () = {
            #[allow(non_camel_case_types)]
            enum Field {
                $($field,)*
                // Not a name a field would have.
                __Unknown,
            }

            fn field(key: &str) -> Field {
                match key {
                    $($crate::lenient::lenient_struct!(@key $field $($key)?) => Field::$field,)*
                    _ => Field::__Unknown,
                }
            }

            impl $crate::lenient::Lenient for $name {
                fn from_map<'de, A: ::serde::de::MapAccess<'de>>(mut map: A) -> ::core::result::Result<Option<Self>, A::Error> {
                    let mut this = Self::default();
                    while let Some(field) = map.next_key_seed($crate::lenient::Key(field))? {
                        match field {
                            $(Field::$field => this.$field = map.next_value()?,)*
                            Field::__Unknown => {
                                map.next_value::<::serde::de::IgnoredAny>()?;
                            }
                        }
                    }
                    Ok(Some(this))
                }
            }

            impl<'de> ::serde::Deserialize<'de> for $name {
                fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> ::core::result::Result<Self, D::Error> {
                    Ok($crate::lenient::read(deserializer)?.unwrap_or_default())
                }
            }
        };
    };
    (@key $field:ident $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };
}
pub(crate) use lenient_struct;

impl Lenient for String {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        Some(text.into_owned())
    }
}

impl Lenient for bool {
    fn from_flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

impl Lenient for i64 {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        text.parse().ok()
    }

    fn from_int(int: i128) -> Option<Self> {
        int.try_into().ok()
    }

    fn from_float(float: f64) -> Option<Self> {
        // 2^63: the least double above every i64.
        const END: f64 = 9_223_372_036_854_775_808.0;
        let fits = float.fract() == 0.0 && (-END..END).contains(&float);
        #[expect(clippy::cast_possible_truncation, reason = "whole and in range, as was just checked")]
        fits.then_some(float as i64)
    }
}

/// The `id` of an object, or the string itself.
struct IdText(String);

impl Lenient for IdText {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        Some(Self(text.into_owned()))
    }

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        Ok(WithId::from_map(map)?.and_then(|with| with.id.0).map(Self))
    }
}

lenient_struct! {
    struct WithId {
        id: Text,
    }
}

/// Lets a wrapper of an `Option` be read, and stand in a [`List`].
macro_rules! optional {
    ($name:ident $(<$param:ident>)?, $inner:ty, $wrap:expr) => {
        impl<'de $(, $param: Lenient)?> Deserialize<'de> for $name $(<$param>)? {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(read(deserializer)?.unwrap_or_default())
            }
        }

        impl $(<$param: Lenient>)? Lenient for $name $(<$param>)? {
            fn from_text(text: Cow<'_, str>) -> Option<Self> {
                <$inner>::from_text(text).map($wrap)
            }

            fn from_flag(flag: bool) -> Option<Self> {
                <$inner>::from_flag(flag).map($wrap)
            }

            fn from_int(int: i128) -> Option<Self> {
                <$inner>::from_int(int).map($wrap)
            }

            fn from_float(float: f64) -> Option<Self> {
                <$inner>::from_float(float).map($wrap)
            }

            fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
                Ok(<$inner>::from_map(map)?.map($wrap))
            }

            fn from_seq<'de, A: SeqAccess<'de>>(seq: A) -> Result<Option<Self>, A::Error> {
                Ok(<$inner>::from_seq(seq)?.map($wrap))
            }
        }
    };
}

/// A string; anything else is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(pub Option<String>);
optional!(Text, String, |text| Self(Some(text)));

/// A whole number, also one written as `12.0`, `1e3` or `"12"`; anything else, or beyond an `i64`, is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Int(pub Option<i64>);
optional!(Int, i64, |int| Self(Some(int)));

/// `true` or `false`; anything else is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flag(pub Option<bool>);
optional!(Flag, bool, |flag| Self(Some(flag)));

/// One of Stripe's expandable fields: an id, or the object with its `id`; anything else is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Id(pub Option<String>);
optional!(Id, IdText, |id: IdText| Self(Some(id.0)));

/// A `T`, as a rule a struct of `lenient_struct!`; anything else is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obj<T>(pub Option<T>);
optional!(Obj<T>, T, |object| Self(Some(object)));

// Derived, it would ask for `T: Default`.
impl<T> Default for Obj<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// An array's elements, without those that are no `T`; anything but an array is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Lenient> Lenient for List<T> {
    fn from_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(Obj(item)) = seq.next_element()? {
            items.extend(item);
        }
        Ok(Some(Self(items)))
    }
}

impl<'de, T: Lenient> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(read(deserializer)?.unwrap_or_default())
    }
}

/// One of Stripe's list objects, `{"object": "list", "data": […], "has_more": false}`, or a bare array; anything else
/// is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The elements that are a `T`.
    pub data: Vec<T>,
    /// Whether Stripe has more than it sent; `false` where it does not say.
    pub has_more: bool,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { data: Vec::new(), has_more: false }
    }
}

impl<T: Lenient> Lenient for Listing<T> {
    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        enum Field {
            Data,
            HasMore,
            Unknown,
        }
        let field: fn(&str) -> Field = |key| match key {
            "data" => Field::Data,
            "has_more" => Field::HasMore,
            _ => Field::Unknown,
        };
        let mut listing = Self::default();
        while let Some(field) = map.next_key_seed(Key(field))? {
            match field {
                Field::Data => listing.data = map.next_value::<List<T>>()?.0,
                Field::HasMore => listing.has_more = map.next_value::<Flag>()?.0.unwrap_or_default(),
                Field::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(listing))
    }

    fn from_seq<'de, A: SeqAccess<'de>>(seq: A) -> Result<Option<Self>, A::Error> {
        Ok(List::from_seq(seq)?.map(|list| Self { data: list.0, has_more: false }))
    }
}

impl<'de, T: Lenient> Deserialize<'de> for Listing<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(read(deserializer)?.unwrap_or_default())
    }
}

/// Stripe's `metadata`: an object's entries whose values are strings; anything but an object is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings(pub BTreeMap<String, String>);

impl Lenient for Strings {
    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, Text(value))) = map.next_entry::<String, Text>()? {
            match value {
                Some(value) => entries.insert(key, value),
                // The last of equal keys wins, also where it is no string.
                None => entries.remove(&key),
            };
        }
        Ok(Some(Self(entries)))
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(read(deserializer)?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    lenient_struct! {
        /// One of each.
        #[derive(PartialEq)]
        struct Sample {
            id: Text,
            kind: Text = "type",
            amount: Int,
            live: Flag,
            customer: Id,
            inner: Obj<Inner>,
            bare: Inner,
            items: List<Inner>,
            names: List<Text>,
            numbers: List<i64>,
            lines: Listing<Inner>,
            nested: List<List<Flag>>,
            metadata: Strings,
        }
    }

    lenient_struct! {
        #[derive(PartialEq)]
        struct Inner {
            id: Text,
            price: Obj<Price>,
        }
    }

    lenient_struct! {
        #[derive(PartialEq)]
        struct Price {
            product: Id,
            amount: Int,
        }
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Derived {
        id: Text,
        inner: Obj<Inner>,
        items: List<Inner>,
    }

    fn from_text<T: DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).unwrap()
    }

    fn from_value<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn text(text: &str) -> Text {
        Text(Some(text.into()))
    }

    #[test]
    fn what_fits_is_kept() {
        let sample: Sample = from_value(json!({
            "id": "a", "type": "b", "amount": -3, "live": true, "customer": {"id": "cus_1", "object": "customer"},
            "inner": {"id": "c", "price": {"product": "prod_1", "amount": "12"}}, "bare": {"id": "d"},
            "items": [{"id": "e"}, 1, null, [], {}], "names": ["f", 1, "g"], "numbers": [1, "2", 3.0, 4.5, {}],
            "lines": {"data": [{"id": "h"}], "has_more": true}, "nested": [[true, 1], 2, []],
            "metadata": {"user_id": "u", "n": 1}, "unknown": {"deep": [[]]}
        }));
        let inner = |id: &str| Inner { id: text(id), price: Obj(None) };
        let price = Price { product: Id(Some("prod_1".into())), amount: Int(Some(12)) };
        let expected = Sample {
            id: text("a"),
            kind: text("b"),
            amount: Int(Some(-3)),
            live: Flag(Some(true)),
            customer: Id(Some("cus_1".into())),
            inner: Obj(Some(Inner { id: text("c"), price: Obj(Some(price)) })),
            bare: inner("d"),
            items: List(vec![inner("e"), Inner::default()]),
            names: List(vec![text("f"), text("g")]),
            numbers: List(vec![1, 2, 3]),
            lines: Listing { data: vec![inner("h")], has_more: true },
            nested: List(vec![List(vec![Flag(Some(true))]), List(vec![])]),
            metadata: Strings(BTreeMap::from([("user_id".into(), "u".into())])),
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn a_missing_null_or_wrongly_typed_field_is_absent() {
        let keys = ["id", "type", "amount", "live", "customer", "inner", "bare", "items", "names", "lines", "metadata"];
        for value in [json!(null), json!(1.5), json!({}), json!([]), json!([[1]]), json!({"x": {"y": []}})] {
            let object = keys.iter().map(|key| ((*key).to_owned(), value.clone())).collect();
            let mut sample: Sample = from_value(Value::Object(object));
            assert!(value.is_object() || sample.inner.0.is_none());
            sample.inner = Obj(None);
            assert_eq!(sample, Sample::default(), "{value}");
        }
        for value in ["null", "1", "\"a\"", "[{}]", "true", "{}"] {
            assert_eq!(from_text::<Sample>(value), Sample::default());
        }
    }

    #[test]
    fn a_whole_number_may_be_written_in_several_ways() {
        for (written, expected) in [
            ("12", Some(12)),
            ("12.0", Some(12)),
            ("1.2e1", Some(12)),
            ("\"12\"", Some(12)),
            ("-0.0", Some(0)),
            ("12.5", None),
            ("\"12.5\"", None),
            ("\"\"", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("18446744073709551615", None),
            ("99999999999999999999999", None),
            ("-1e300", None),
        ] {
            assert_eq!(from_text::<Int>(written).0, expected, "{written}");
        }
    }

    #[test]
    fn an_expandable_field_gives_the_id_of_either_shape() {
        for (written, expected) in [
            (r#""cus_1""#, Some("cus_1")),
            (r#"{"object": "customer", "id": "cus_1", "deep": [{}]}"#, Some("cus_1")),
            (r#"{"id": 1}"#, None),
            (r#"{"id": {"id": "cus_1"}}"#, None),
            ("{}", None),
            ("null", None),
            (r#"["cus_1"]"#, None),
        ] {
            assert_eq!(from_text::<Id>(written).0.as_deref(), expected, "{written}");
        }
    }

    #[test]
    fn a_listing_may_be_a_bare_array() {
        let listing: Listing<String> = from_text(r#"["a", 1, "b"]"#);
        assert_eq!(listing, Listing { data: vec!["a".into(), "b".into()], has_more: false });
        let listing: Listing<String> = from_text(r#"{"has_more": 1, "data": {"0": "a"}}"#);
        assert_eq!(listing, Listing::default());
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        let sample: Sample = from_text(
            r#"{"id": "a", "inner": {"id": "x", "id": "y"}, "id": "b", "live": true, "live": null,
                "metadata": {"k": "1", "k": "2", "l": "1", "l": 2}, "lines": {"data": [{}], "data": []}}"#,
        );
        assert_eq!(sample.id, text("b"));
        assert_eq!(sample.inner.0.map(|inner| inner.id), Some(text("y")));
        assert_eq!(sample.live, Flag(None));
        assert_eq!(sample.metadata.0, BTreeMap::from([("k".into(), "2".into())]));
        assert!(sample.lines.data.is_empty());
    }

    #[test]
    fn a_derived_struct_may_hold_lenient_fields() {
        let derived: Derived = from_text(r#"{"inner": 1, "items": [{"id": "a"}, 2], "other": {}}"#);
        let items = List(vec![Inner { id: text("a"), price: Obj(None) }]);
        assert_eq!(derived, Derived { id: Text(None), inner: Obj(None), items });
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}1{}", "[{\"a\":".repeat(200_000), "}]".repeat(200_000));
        for key in ["id", "type", "amount", "live", "customer", "inner", "lines", "nested", "metadata", "unknown"] {
            for limit in [true, false] {
                let text = format!("{{\"{key}\":{deep}}}");
                let mut parser = serde_json::Deserializer::from_str(&text);
                if !limit {
                    parser.disable_recursion_limit();
                }
                assert!(Sample::deserialize(&mut parser).is_ok(), "{key}");
                assert!(parser.end().is_ok());
            }
        }
    }

    #[test]
    fn text_that_is_not_json_is_an_error() {
        for text in ["", "{", r#"{"id": }"#, r#"{"unknown": [1,]}"#, r#"{"id": "a",}"#] {
            assert!(serde_json::from_str::<Sample>(text).is_err(), "{text}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            prop::sample::select(vec![
                "id", "type", "amount", "live", "customer", "inner", "bare", "items", "names", "numbers", "lines",
                "nested", "metadata", "price", "product", "data", "has_more",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_can_be_read_as_any_type(value in any_value()) {
            let text = value.to_string();
            let sample: Sample = from_text(&text);
            prop_assert_eq!(from_value::<Sample>(value.clone()), sample);
            prop_assert_eq!(from_value::<Text>(value.clone()), from_text::<Text>(&text));
            prop_assert_eq!(from_value::<Int>(value.clone()), from_text::<Int>(&text));
            prop_assert_eq!(from_value::<Flag>(value.clone()), from_text::<Flag>(&text));
            prop_assert_eq!(from_value::<Id>(value.clone()), from_text::<Id>(&text));
            prop_assert_eq!(from_value::<Obj<Sample>>(value.clone()), from_text::<Obj<Sample>>(&text));
            prop_assert_eq!(from_value::<List<Sample>>(value.clone()), from_text::<List<Sample>>(&text));
            prop_assert_eq!(from_value::<Listing<Sample>>(value.clone()), from_text::<Listing<Sample>>(&text));
            prop_assert_eq!(from_value::<Strings>(value), from_text::<Strings>(&text));
        }
    }
}
