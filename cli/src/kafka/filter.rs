//! Names by regular expression, as Kafka's tools take them: commas are alternatives, and quotes and
//! spaces around are dropped. The whole name must match.

use regex::Regex;

use super::Stop;

pub(crate) struct NameFilter(Regex);

impl NameFilter {
    pub(crate) fn new(text: &str) -> Result<Self, Stop> {
        let pattern = text.trim().replace(',', "|").replace(' ', "");
        let pattern = pattern.trim_start_matches(['"', '\'']).trim_end_matches(['"', '\'']);
        match Regex::new(&format!("^(?:{pattern})$")) {
            Ok(regex) => Ok(Self(regex)),
            Err(error) => Err(Stop::Failed(format!("{text} is an invalid regex: {error}"))),
        }
    }

    pub(crate) fn allows(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_matches_whole_names_and_commas_are_alternatives() {
        let table = [
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("ord.*", "orders", true),
            ("a, b", "b", true),
            ("\"a\"", "a", true),
            ("a", "b", false),
        ];
        for (filter, name, allowed) in table {
            assert_eq!(
                NameFilter::new(filter).expect("valid").allows(name),
                allowed,
                "{filter} on {name}"
            );
        }
        assert!(NameFilter::new("(").is_err());
    }
}
