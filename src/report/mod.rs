//! Tables and figures, made from results and scores only.
