//! Where models are kept and how they get there.
