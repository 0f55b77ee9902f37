use openapi::FieldError;

/// Faults that are told of one body; a filter may have any number.
const MOST: usize = 32;

/// The fields of a body that are at fault.
#[derive(Default)]
pub(crate) struct Faults(pub(crate) Vec<FieldError>);

impl Faults {
    pub(crate) fn add(&mut self, pointer: &str, code: &str, message: &str) {
        if self.0.len() >= MOST {
            return;
        }
        let (pointer, code, message) = (pointer.to_owned(), code.to_owned(), message.to_owned());
        self.0.push(FieldError {
            pointer,
            code,
            message,
            ..FieldError::default()
        });
    }

    /// `setting` is empty where the limit cannot be set.
    pub(crate) fn range(
        &mut self,
        pointer: &str,
        given: usize,
        least: usize,
        most: usize,
        setting: &str,
    ) {
        if (least..=most).contains(&given) {
            return;
        }
        let (code, limit) = if given < least {
            ("too_small", least)
        } else {
            ("too_large", most)
        };
        let setting = Some(setting).filter(|setting| given > most && !setting.is_empty());
        let named = setting.map_or_else(String::new, |setting| format!(" (`{setting}`)"));
        self.0.push(FieldError {
            pointer: pointer.to_owned(),
            code: code.to_owned(),
            message: format!("is {given}, limit is {limit}{named}"),
            limit: Some(limit as u64),
            given: Some(given as u64),
            setting: setting.map(str::to_owned),
        });
    }
}
