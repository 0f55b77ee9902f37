/// Returns the id of a passage of a document: `doc#3` is the fourth passage of `doc`.
pub fn passage_id(document: &str, number: u32) -> String {
    format!("{document}#{number}")
}

/// Returns document and number of an id that [`passage_id`] could have made; the last `#` counts.
pub fn parse_passage_id(id: &str) -> Option<(&str, u32)> {
    let (document, number) = id.rsplit_once('#')?;
    let is_plain = |digits: &str| {
        digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'))
    };
    (!document.is_empty() && is_plain(number)).then_some(())?;
    Some((document, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_parsed() {
        for document in ["a", "a#0", "#", "é#1#", "a b", "0"] {
            for number in [0, 7, 10, u32::MAX] {
                let id = passage_id(document, number);
                assert_eq!(parse_passage_id(&id), Some((document, number)), "{id}");
            }
        }
        for other in [
            "",
            "a",
            "#0",
            "a#",
            "a#01",
            "a#+1",
            "a#-1",
            "a#4294967296",
            "a#1 ",
            "a#x",
        ] {
            assert_eq!(parse_passage_id(other), None, "{other}");
        }
    }
}
