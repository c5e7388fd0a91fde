//! Programs in their sandbox: those that mean well, those that do not, and whatever else is handed in.

mod hostile;
mod neighbours;
mod programs;
