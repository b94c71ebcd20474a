//! Ranges that random numbers are drawn from.

use std::fmt;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

/// How far a number spreads: one number about the middle, or two, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Spread {
    /// So far about the middle.
    About(f64),
    /// From and to.
    Between([f64; 2]),
}

impl Default for Spread {
    fn default() -> Self {
        Self::About(0.0)
    }
}

impl Spread {
    /// From and to, about this middle.
    pub fn about(self, middle: f64) -> [f64; 2] {
        match self {
            Self::About(most) => [middle - most, middle + most],
            Self::Between(range) => range,
        }
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrTwo;
        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = Spread;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a number, or two: [from, to]")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Spread, E> {
                Ok(Spread::About(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Spread, E> {
                Ok(Spread::About(value as f64))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Spread, E> {
                Ok(Spread::About(value as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Spread, A::Error> {
                let mut next = |at| values.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(at, &self));
                let range = [next(0)?, next(1)?];
                match values.next_element::<f64>()? {
                    Some(_) => Err(serde::de::Error::invalid_length(3, &self)),
                    None => Ok(Spread::Between(range)),
                }
            }
        }
        deserializer.deserialize_any(OneOrTwo)
    }
}

impl JsonSchema for Spread {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Spread".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        let numbers = json_schema!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 });
        json_schema!({ "description": "A number, or two: from and to.", "anyOf": [{ "type": "number" }, numbers] })
    }
}

/// Whether the second is not below the first.
pub(in crate::data) fn rising(range: &[f64; 2], (): &()) -> garde::Result {
    if range[0] <= range[1] { Ok(()) } else { Err(garde::Error::new("the first is above the second")) }
}

/// One number from 0 to `high`; two from `low` to `high`, rising.
pub(super) fn within(low: f64, high: f64) -> impl FnOnce(&Spread, &()) -> garde::Result {
    move |spread, ()| match spread {
        Spread::About(most) if (0.0..=high).contains(most) => Ok(()),
        Spread::About(most) => Err(garde::Error::new(format!("{most} is not from 0 to {high}"))),
        Spread::Between(range) if range.iter().all(|value| (low..=high).contains(value)) => rising(range, &()),
        Spread::Between(_) => Err(garde::Error::new(format!("not from {low} to {high}"))),
    }
}
