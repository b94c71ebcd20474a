//! Values that may be written short: `energy` for `energy: {}`, `svhn` for `{ name: svhn }`.

use std::{fmt, marker::PhantomData};

use schemars::{Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};

use crate::{
    config::{Backbone, Dataset, Duq, Empty, Head, Resnet, ResnetCifar, Sngp, Vgg19, WideResnet},
    did_you_mean,
};

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

/// `unknown name "lenett" (did you mean "lenet"?)`, or all names when none is near.
fn unknown_name(name: &str, known: &[&str]) -> String {
    match did_you_mean(name, known.iter().copied()).as_str() {
        "" => format!("unknown name `{name}`; the names are {}", known.join(", ")),
        near => format!("unknown name `{name}`{near}"),
    }
}

impl<'de> Deserialize<'de> for Dataset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Long(#[serde(with = "Dataset")] Dataset);

        fn short(name: &str) -> Result<Long, String> {
            Ok(Long(Dataset::named(name)))
        }
        string_or_map(deserializer, "a data set's name, or a map with `name` and more", short).map(|long| long.0)
    }
}

impl Serialize for Dataset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// A list of names of classes; numbers stand for themselves.
pub fn class_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a class is a name or the number of a label")]
    enum Class {
        Number(u64),
        Name(String),
    }
    let classes = Vec::<Class>::deserialize(deserializer)?.into_iter().map(|class| match class {
        Class::Number(number) => number.to_string(),
        Class::Name(name) => name,
    });
    Ok(classes.collect())
}

/// [`class_list`], or none.
pub fn some_classes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Classes(#[serde(deserialize_with = "class_list")] Vec<String>);
    Ok(Option::<Classes>::deserialize(deserializer)?.map(|classes| classes.0))
}

/// Schema transform: the items of a list may be numbers.
pub fn words_or_numbers(schema: &mut Schema) {
    schema.insert(
        "items".to_owned(),
        serde_json::json!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }] }),
    );
}

impl Dataset {
    /// The name by which its files and its built-in description are found.
    pub fn source(&self) -> &str {
        self.of.as_deref().unwrap_or(&self.name)
    }

    /// The data set that oodkit knows by this name, as it comes.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// The architectures' names.
const VARIANTS: [&str; 7] =
    ["lenet", "wide_resnet", "resnet", "resnet18_32x32", "resnet_cifar", "efficientnet_lite0", "vgg19_bn"];

/// Short names of architectures with settings.
const PRESETS: [(&str, Backbone); 11] = [
    ("wrn40_2", Backbone::WideResnet(WideResnet { depth: 40, width: 2, dropout: 0.3 })),
    ("wrn28_10", Backbone::WideResnet(WideResnet { depth: 28, width: 10, dropout: 0.3 })),
    ("resnet18", Backbone::Resnet(Resnet { depth: 18, width: 1 })),
    ("resnet34", Backbone::Resnet(Resnet { depth: 34, width: 1 })),
    ("resnet50", Backbone::Resnet(Resnet { depth: 50, width: 1 })),
    ("wide_resnet50_2", Backbone::Resnet(Resnet { depth: 50, width: 2 })),
    ("resnet20", Backbone::ResnetCifar(ResnetCifar { depth: 20 })),
    ("resnet32", Backbone::ResnetCifar(ResnetCifar { depth: 32 })),
    ("resnet44", Backbone::ResnetCifar(ResnetCifar { depth: 44 })),
    ("resnet56", Backbone::ResnetCifar(ResnetCifar { depth: 56 })),
    ("resnet110", Backbone::ResnetCifar(ResnetCifar { depth: 110 })),
];

impl Backbone {
    /// The names that may stand for an architecture.
    pub fn names() -> impl Iterator<Item = &'static str> {
        VARIANTS.into_iter().chain(PRESETS.iter().map(|(preset, _)| *preset))
    }

    /// The architecture's own name, whatever its settings.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Lenet(_) => "lenet",
            Self::WideResnet(_) => "wide_resnet",
            Self::Resnet(_) => "resnet",
            Self::Resnet18Small(_) => "resnet18_32x32",
            Self::ResnetCifar(_) => "resnet_cifar",
            Self::EfficientnetLite0(_) => "efficientnet_lite0",
            Self::Vgg19Bn(_) => "vgg19_bn",
        }
    }

    /// The architecture that a bare name stands for.
    ///
    /// # Errors
    /// A message that lists the names, if there is no such name or it needs settings.
    pub fn by_name(name: &str) -> Result<Self, String> {
        match PRESETS.iter().find(|(preset, _)| *preset == name) {
            Some((_, backbone)) => Ok(backbone.clone()),
            None if VARIANTS.contains(&name) => variant_by_name(name),
            None => Err(unknown_name(name, &Self::names().collect::<Vec<_>>())),
        }
    }
}

impl<'de> Deserialize<'de> for Backbone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(remote = "Backbone", rename_all = "snake_case")]
        enum Long {
            Lenet(Empty),
            WideResnet(WideResnet),
            Resnet(Resnet),
            #[serde(rename = "resnet18_32x32")]
            Resnet18Small(Empty),
            ResnetCifar(ResnetCifar),
            EfficientnetLite0(Empty),
            Vgg19Bn(Vgg19),
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Wrapper(#[serde(with = "Long")] Backbone);

        fn short(name: &str) -> Result<Wrapper, String> {
            Backbone::by_name(name).map(Wrapper)
        }
        string_or_map(deserializer, "an architecture's name, or a map of its name and settings", short)
            .map(|wrapper| wrapper.0)
    }
}

/// The names of heads that need no settings.
const HEADS: [&str; 3] = ["linear", "duq", "sngp"];

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(remote = "Head", rename_all = "snake_case")]
        enum Long {
            Linear(Empty),
            Duq(Duq),
            Sngp(Sngp),
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Wrapper(#[serde(with = "Long")] Head);

        string_or_map(deserializer, "a head's name, or a map of its name and settings", variant_by_name::<Wrapper>)
            .map(|wrapper| wrapper.0)
    }
}

/// Schema transform of [`Head`]: the names, short or with settings.
pub fn head_names(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "enum": HEADS }, long] });
}

/// Schema transform: the value may also be a plain string.
pub fn string_or_object(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "type": "string" }, long] });
}

/// Schema transform of [`Backbone`]: the names, short or with settings.
pub fn backbone_names(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({
        "anyOf": [{ "enum": Backbone::names().filter(|name| Backbone::by_name(name).is_ok()).collect::<Vec<_>>() }, long]
    });
}
