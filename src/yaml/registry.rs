//! The macro behind lists of things that each have a file: one line makes one of them a key.

/// Makes an enum of lines `Variant = "name" in module`, where `module::Settings` holds the settings and implements the trait.
///
/// A name may stand alone where its settings have defaults; so may the trait's `PRESETS`, which are names with settings.
macro_rules! registry {
    (
        $(#[doc = $about:literal])+
        pub enum $Enum:ident: $Trait:ident, $expecting:literal {
            $($(#[doc = $doc:literal])+ $Variant:ident = $name:literal in $module:ident,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema, garde::Validate)]
        #[schemars(transform = bare_names)]
        pub enum $Enum {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $Variant(#[garde(dive)] $module::Settings),)+
        }

        impl $Enum {
            /// The names, in the order of the list.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Its name, whatever its settings.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Variant(_) => $name,)+
                }
            }

            /// Names with settings.
            fn presets() -> impl Iterator<Item = (&'static str, Self)> {
                std::iter::empty()$(.chain(
                    <$module::Settings as $Trait>::PRESETS
                        .iter()
                        .map(|(name, settings)| (*name, Self::$Variant(settings.clone()))),
                ))+
            }

            /// All names that may stand for one.
            pub fn names() -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().copied().chain(Self::presets().map(|(preset, _)| preset))
            }

            /// What a bare name stands for.
            ///
            /// # Errors
            /// A message that lists the names, if there is no such name or it needs settings.
            pub fn by_name(name: &str) -> std::result::Result<Self, String> {
                match Self::presets().find(|(preset, _)| *preset == name) {
                    Some((_, settings)) => Ok(settings),
                    None if Self::NAMES.contains(&name) => {
                        crate::yaml::named::variant_by_name::<Long>(name).map(Self::from)
                    }
                    None => Err(crate::yaml::named::unknown_name(name, &Self::names().collect::<Vec<_>>())),
                }
            }
        }

        /// Evaluates an expression for the settings, or for their type.
        macro_rules! of_settings {
            ($of:expr, $settings:ident => $body:expr) => {
                match $of {
                    $($Enum::$Variant($settings) => $body,)+
                }
            };
        }

        /// The form with settings.
        #[derive(serde::Deserialize)]
        enum Long {
            $(#[serde(rename = $name)] $Variant($module::Settings),)+
        }

        impl From<Long> for $Enum {
            fn from(long: Long) -> Self {
                match long {
                    $(Long::$Variant(settings) => Self::$Variant(settings),)+
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $Enum {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(from = "Long")]
                struct Either($Enum);

                impl From<Long> for Either {
                    fn from(long: Long) -> Self {
                        Self(long.into())
                    }
                }

                let short = |name: &str| $Enum::by_name(name).map(Either);
                crate::yaml::named::string_or_map(deserializer, $expecting, short).map(|either| either.0)
            }
        }

        /// Schema transform: the names, short or with settings.
        fn bare_names(schema: &mut schemars::Schema) {
            let long = std::mem::take(schema);
            let bare: Vec<&str> = $Enum::names().filter(|name| $Enum::by_name(name).is_ok()).collect();
            *schema = schemars::json_schema!({ "anyOf": [{ "enum": bare }, long] });
        }
    };
}

/// Makes the `Settings` of a module that has none.
macro_rules! no_settings {
    () => {
        /// It has none.
        #[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, garde::Validate)]
        #[serde(transparent)]
        pub struct Settings(#[garde(skip)] crate::yaml::named::Empty);

        impl schemars::JsonSchema for Settings {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                crate::yaml::named::Empty::schema_name()
            }

            fn schema_id() -> std::borrow::Cow<'static, str> {
                crate::yaml::named::Empty::schema_id()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::yaml::named::Empty::json_schema(generator)
            }
        }
    };
}

pub(crate) use {no_settings, registry};
