//! Reading an experiment file with precise errors.
