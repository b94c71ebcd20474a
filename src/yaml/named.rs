//! Values that may be written short: `energy` for `energy: {}`, `svhn` for `{ name: svhn }`.

use std::{fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        self, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};

use crate::did_you_mean;

/// Deserialises `T` from a map, or from a string that `short` turns into the same.
pub fn string_or_map<'de, D, T>(
    deserializer: D,
    expecting: &'static str,
    short: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct StringOrMap<T> {
        expecting: &'static str,
        short: fn(&str) -> Result<T, String>,
        result: PhantomData<T>,
    }

    impl<'de, T: Deserialize<'de>> Visitor<'de> for StringOrMap<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str(self.expecting)
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
            (self.short)(value).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(StringOrMap { expecting, short, result: PhantomData })
}

/// Deserialises a list, or one of the words that `short` knows.
pub fn word_or_list<'de, D, T, I>(
    deserializer: D,
    expecting: &'static str,
    short: fn(&str) -> Option<T>,
    long: fn(Vec<I>) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    I: Deserialize<'de>,
{
    struct WordOrList<T, I> {
        expecting: &'static str,
        short: fn(&str) -> Option<T>,
        long: fn(Vec<I>) -> T,
    }

    impl<'de, T, I: Deserialize<'de>> Visitor<'de> for WordOrList<T, I> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str(self.expecting)
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
            (self.short)(value).ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
            let mut found = Vec::new();
            while let Some(item) = list.next_element()? {
                found.push(item);
            }
            Ok((self.long)(found))
        }
    }

    deserializer.deserialize_any(WordOrList { expecting, short, long })
}

/// An externally tagged enum's variant by its name, with default settings: `energy` as if it were `energy: {}`.
///
/// The error is in words for the user, with the nearest name.
pub fn variant_by_name<T: for<'de> Deserialize<'de>>(name: &str) -> Result<T, String> {
    let empty = MapDeserializer::new(std::iter::empty::<(&str, &str)>());
    struct Settings<M>(M);
    impl<'de, M: Deserializer<'de, Error = Wrong>> IntoDeserializer<'de, Wrong> for Settings<M> {
        type Deserializer = M;
        fn into_deserializer(self) -> M {
            self.0
        }
    }
    let entry = MapDeserializer::new(std::iter::once((name, Settings(empty))));
    T::deserialize(MapAccessDeserializer::new(entry)).map_err(|Wrong(words)| words.replace("{name}", name))
}

/// What is wrong with a short name.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self(unknown_name(variant, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("`{{name}}` needs settings: `{{name}}: {{ {field}: … }}`"))
    }
}

/// Names that are listed beside the one that was meant, at most.
const FEW: usize = 8;

/// `unknown name "lenett" (did you mean "lenet"?)`, and all names where none is near or they are few.
pub fn unknown_name(name: &str, known: &[&str]) -> String {
    let near = did_you_mean(name, known.iter().copied());
    match near.is_empty() || known.len() <= FEW {
        true => format!("unknown name `{name}`{near}; the names are {}", known.join(", ")),
        false => format!("unknown name `{name}`{near}"),
    }
}

/// Schema transform: the value may also be a plain string.
pub fn string_or_object(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "type": "string" }, long] });
}

/// The default of a setting that is on unless it is turned off.
pub fn yes() -> bool {
    true
}

/// Whether a setting need not be written.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// No settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}
