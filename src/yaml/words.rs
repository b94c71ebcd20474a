//! The macro behind lists of things that each have a file and no settings: a word stands for one of them.

/// Makes an enum of lines `Variant = "word" in value`, where the constant `value` implements the trait. The method named after `as`
/// gives it.
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        pub enum $Enum:ident as $reach:vis $its:ident: $Trait:ident {
            $($(#[doc = $doc:literal])+ $Variant:ident = $name:literal in $value:expr,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $Enum {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $Variant,)+
        }

        impl $Enum {
            /// All of them, in the order of the list.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$Variant),+];

            /// The word for it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)+
                }
            }

            /// What it does.
            $reach fn $its(self) -> &'static dyn $Trait {
                match self {
                    $(Self::$Variant => &$value,)+
                }
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}

pub(crate) use words;
