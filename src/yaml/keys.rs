//! The macro behind lists of things that each have a file and whose settings a file must give.

/// Makes an enum of lines `Variant = "name" in module`, where `module::Settings` holds the settings and implements the trait.
/// The enum dereferences to the trait.
macro_rules! keys {
    (
        $(#[doc = $about:literal])+
        #[schemars(rename = $schema:literal)]
        pub enum $Enum:ident: $Trait:ident {
            $($(#[doc = $doc:literal])+ $Variant:ident = $name:literal in $module:ident,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(
            Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
        )]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = $schema)]
        pub enum $Enum {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $Variant(#[garde(dive)] $module::Settings),)+
        }

        impl $Enum {
            /// Its key.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Variant(_) => $name,)+
                }
            }
        }

        impl std::ops::Deref for $Enum {
            type Target = dyn $Trait;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Self::$Variant(settings) => settings,)+
                }
            }
        }
    };
}

pub(crate) use keys;
