//! Text that language models write about passages, and MASTER's lines of it.
//!
//! MASTER's decoders recover queries that a T5 asked of a text and a continuation that a GPT-2 wrote, Zhou et al. 2023
//! (arXiv 2212.07841), §3.2. [`write_teacher_text`] makes either of a corpus, [`write_master_lines`] puts them beside the
//! texts as token ids.

mod error;
mod line;
mod lines;
mod master;
mod unfinished;
mod writing;

pub use error::TeacherError;
pub use line::{TeacherLine, TeacherText};
pub use master::{JudgedQueries, MasterReport, MasterSource, write_master_lines};
pub use unfinished::Unfinished;
pub use writing::{TeacherConfig, TeacherReport, write_teacher_text};
