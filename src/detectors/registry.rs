//! The macro behind the list of detectors.

/// The name of a module in YAML.
macro_rules! name {
    // A keyword since the edition 2024.
    (r#gen) => {
        "gen"
    };
    // `map` is what is done with maps.
    (own_map) => {
        "map"
    };
    ($module:ident) => {
        stringify!($module)
    };
}

/// The file of a module, relative to this one.
macro_rules! file {
    (afdu) => {
        "afdu/mod.rs"
    };
    (r#gen) => {
        "gen.rs"
    };
    ($module:ident) => {
        concat!(stringify!($module), ".rs")
    };
}

/// Makes [`DetectorConfig`](super::DetectorConfig) of a list `Variant = module`, where `module::Config` holds the
/// settings and implements [`Detector`](super::Detector). The module's name is the detector's name.
macro_rules! registry {
    ($($(#[doc = $doc:literal])+ $variant:ident = $module:ident,)+) => {
        /// A detector and its settings: `energy: { temperature: 2 }`, or `energy` alone for the defaults.
        #[derive(Debug, Clone, PartialEq, serde::Serialize, garde::Validate, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[schemars(transform = bare_names)]
        pub enum DetectorConfig {
            $($(#[doc = $doc])+ $variant(#[garde(dive)] $module::Config),)+
        }

        impl DetectorConfig {
            /// Every detector's name, in the order of the list.
            pub const NAMES: &[&str] = &[$(name!($module)),+];

            /// The detector's name: the key in YAML.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => name!($module),)+
                }
            }

            /// What it is, in one line.
            pub fn about(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// The text of its file.
            fn source(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => include_str!(file!($module)),)+
                }
            }

            /// The detector with its default settings.
            ///
            /// # Errors
            /// [`Error::Input`] that lists the names, if there is no such detector.
            pub fn default_of(name: &str) -> Result<Self> {
                match name {
                    $(name!($module) => Ok(Self::$variant($module::Config::default())),)+
                    _ => Err(Error::input(unknown(name))),
                }
            }

            /// Every detector with its default settings, in the order of the list.
            pub fn all() -> impl Iterator<Item = Self> {
                [$(Self::$variant($module::Config::default())),+].into_iter()
            }

            /// The detector of this name, whose settings are the next value of `map`.
            pub(crate) fn settings_of<'de, A: serde::de::MapAccess<'de>>(
                name: &str,
                map: &mut A,
            ) -> Result<Self, A::Error> {
                match name {
                    $(name!($module) => Ok(Self::$variant(map.next_value()?)),)+
                    _ => Err(serde::de::Error::custom(unknown(name))),
                }
            }

            /// As [`Detector::post`]: `None` of a detector without maps.
            pub fn post(&self) -> Option<map::Post> {
                self.build().post()
            }

            /// What it is.
            pub(crate) fn detector(&self) -> &dyn Detector {
                match self {
                    $(Self::$variant(config) => config,)+
                }
            }

            /// The same, to change it.
            pub(crate) fn detector_mut(&mut self) -> &mut dyn Detector {
                match self {
                    $(Self::$variant(config) => config,)+
                }
            }

            /// The detector, ready to be fitted.
            pub fn build(&self) -> Box<dyn Detector> {
                match self {
                    $(Self::$variant(config) => Box::new(config.clone()),)+
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for DetectorConfig {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                /// A map of exactly one detector's name to its settings.
                struct Long(DetectorConfig);

                impl<'de> serde::Deserialize<'de> for Long {
                    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                        deserializer.deserialize_map(OneEntry)
                    }
                }

                struct OneEntry;

                impl<'de> serde::de::Visitor<'de> for OneEntry {
                    type Value = Long;

                    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                        formatter.write_str(EXPECTED)
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Long, A::Error> {
                        use serde::de::Error as _;
                        let Some(name) = map.next_key::<Known>()? else {
                            return Err(A::Error::custom(format_args!("expected {EXPECTED}")));
                        };
                        let config = DetectorConfig::settings_of(name.0, &mut map)?;
                        match map.next_key::<String>()? {
                            Some(second) => Err(A::Error::custom(format_args!(
                                "a method has one detector, but `{second}` follows `{}`",
                                config.name()
                            ))),
                            None => Ok(Long(config)),
                        }
                    }
                }

                let short = |name: &str| {
                    DetectorConfig::default_of(name).map(Long).map_err(|error| error.to_string())
                };
                crate::yaml::named::string_or_map(deserializer, EXPECTED, short).map(|long| long.0)
            }
        }

        const EXPECTED: &str = "a detector's name, or a map of one name to its settings";

        /// A name of the list; an unknown one is refused where it stands.
        struct Known(&'static str);

        impl<'de> serde::Deserialize<'de> for Known {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let given = String::deserialize(deserializer)?;
                let known = DetectorConfig::NAMES.iter().find(|name| **name == given);
                known.map(|name| Self(name)).ok_or_else(|| serde::de::Error::custom(unknown(&given)))
            }
        }

        /// What is wrong with a name that no detector has.
        pub(crate) fn unknown(name: &str) -> String {
            if crate::nn::heads::Head::NAMES.contains(&name) {
                return format!("{name} is a network's head, `head: {name}`, and no detector");
            }
            let nearest = crate::did_you_mean(name, DetectorConfig::NAMES.iter().copied());
            format!("there is no detector \"{name}\"{nearest}; `oodkit detectors` lists them")
        }

        /// Schema transform: a name alone is allowed too.
        fn bare_names(schema: &mut schemars::Schema) {
            let long = std::mem::take(schema);
            *schema = schemars::json_schema!({ "anyOf": [{ "enum": DetectorConfig::NAMES }, long] });
        }
    };
}

pub(super) use {file, name, registry};
