//! The macro behind the list of loss terms.

/// Makes [`Loss`](super::Loss) of a list of modules, where `module::Settings` holds the settings and implements
/// [`Term`](super::Term). The module's name is the term's name.
macro_rules! registry {
    ($($(#[$attribute:meta])+ $module:ident,)+) => {
        /// The training objective: the sum of its terms, each times its weight.
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Loss {
            $($(#[$attribute])+ #[garde(dive)] pub $module: Option<$module::Settings>,)+
        }

        impl Loss {
            /// Without any term.
            fn empty() -> Self {
                Self { $($module: None,)+ }
            }

            /// The terms that are there, by name.
            pub fn terms(&self) -> impl Iterator<Item = (&'static str, &dyn Term)> {
                let terms = [$((stringify!($module), self.$module.as_ref().map(|term| term as &dyn Term)),)+];
                terms.into_iter().filter_map(|(name, term)| Some((name, term?)))
            }
        }
    };
}

pub(super) use registry;
