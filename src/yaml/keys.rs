//! The macro behind lists of things that each have a file and whose settings a file must give.

/// Makes an enum of lines `Variant = "name" in Settings`, where the type `Settings` holds the settings and implements the trait. The
/// enum dereferences to the trait. One that has no settings may come first, as `default { Variant = "name" in value }`: its name
/// stands alone, and it is the default.
macro_rules! keys {
    (
        $(#[doc = $about:literal])+
        #[schemars(rename = $schema:literal)]
        $(#[schemars(transform = $transform:path)])?
        pub enum $Enum:ident: $Trait:ident {
            $(default { $(#[doc = $usual_doc:literal])+ $Usual:ident = $usual_name:literal in $usual:expr })?
            $($(#[doc = $doc:literal])+ $Variant:ident = $name:literal in $Settings:ty,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(
            Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
        )]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = $schema)]
        $(#[schemars(transform = $transform)])?
        pub enum $Enum {
            $($(#[doc = $usual_doc])+ #[serde(rename = $usual_name)] $Usual,)?
            $($(#[doc = $doc])+ #[serde(rename = $name)] $Variant(#[garde(dive)] $Settings),)+
        }

        $(impl Default for $Enum {
            fn default() -> Self {
                Self::$Usual
            }
        })?

        impl $Enum {
            /// Its key.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Usual => $usual_name,)?
                    $(Self::$Variant(_) => $name,)+
                }
            }
        }

        impl std::ops::Deref for $Enum {
            type Target = dyn $Trait;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Self::$Usual => &$usual,)?
                    $(Self::$Variant(settings) => settings,)+
                }
            }
        }
    };
}

pub(crate) use keys;
