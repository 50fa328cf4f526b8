//! The command line as Kafka's tools read it (they use joptsimple), from a table of options.
//!
//! `--flag value`, `--flag=value`, one dash or two, and any abbreviation that fits one option only.
//! An option may be repeated where its tool asks for all values; elsewhere that is an error.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Stop, Tool};

/// One option of a tool.
pub(crate) struct Opt {
    pub(crate) name: &'static str,
    /// A letter that stands for the name, where Kafka's tool has one; else empty.
    pub(crate) letter: &'static str,
    pub(crate) takes: Takes,
    pub(crate) help: &'static str,
}

impl Opt {
    pub(crate) const fn or(self, letter: &'static str) -> Self {
        Self { letter, ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    /// A value, described by this word.
    Value(&'static str),
    /// A value, or nothing.
    Perhaps(&'static str),
}

pub(crate) const fn flag(name: &'static str, help: &'static str) -> Opt {
    Opt { name, letter: "", takes: Takes::Nothing, help }
}

pub(crate) const fn value(name: &'static str, what: &'static str, help: &'static str) -> Opt {
    Opt { name, letter: "", takes: Takes::Value(what), help }
}

pub(crate) const fn perhaps(name: &'static str, what: &'static str, help: &'static str) -> Opt {
    Opt { name, letter: "", takes: Takes::Perhaps(what), help }
}

/// What every tool takes.
const COMMON: &[Opt] =
    &[flag("help", "Print usage information."), flag("version", "Display Kafka version.")];

pub(crate) struct Options {
    given: BTreeMap<&'static str, Vec<String>>,
    /// Arguments that belong to no option.
    pub(crate) rest: Vec<String>,
}

impl Options {
    /// Reads `args`; answers `--help`, `--version` and `--zookeeper` itself.
    pub(crate) fn parse(tool: &Tool, args: &[String]) -> Result<Self, Stop> {
        let mut options = Self { given: BTreeMap::new(), rest: Vec::new() };
        let mut args = args.iter().map(String::as_str).peekable();
        let nothing = args.peek().is_none();
        while let Some(arg) = args.next() {
            if arg == "--" {
                options.rest.extend(args.map(Into::into));
                break;
            }
            let Some(name) = arg
                .strip_prefix("--")
                .or_else(|| arg.strip_prefix('-'))
                .filter(|name| !name.is_empty())
            else {
                options.rest.push(arg.to_owned());
                continue;
            };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (name, None),
            };
            let option = find(tool, name)?;
            let values = options.given.entry(option.name).or_default();
            match (option.takes, inline) {
                (Takes::Nothing, None) => {}
                (Takes::Nothing, Some(_)) => {
                    return Err(Stop::Failed(format!("Option {name} takes no value")));
                }
                (_, Some(value)) => values.push(value.to_owned()),
                (Takes::Value(_), None) => match args.next() {
                    Some(value) => values.push(value.to_owned()),
                    None => {
                        return Err(Stop::Failed(format!("Option {name} requires an argument")));
                    }
                },
                (Takes::Perhaps(_), None) => {
                    values.extend(args.next_if(|next| !next.starts_with('-')).map(Into::into));
                }
            }
        }
        if nothing || options.has("help") {
            return Err(Stop::Usage(tool.about.to_owned()));
        }
        if options.has("version") {
            super::say(format_args!(
                "{} (speaks the protocol of Kafka 4.3)",
                env!("CARGO_PKG_VERSION")
            ));
            return Err(Stop::Exit(0));
        }
        Ok(options)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of an option that may be given once.
    pub(crate) fn value(&self, name: &str) -> Result<Option<&str>, Stop> {
        match self.values(name) {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(Stop::Failed(format!(
                "Found multiple arguments for option {name}, but you asked for only one"
            ))),
        }
    }

    /// All values of an option that may be repeated.
    pub(crate) fn values(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a numeric option.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Stop> {
        let Some(text) = self.value(name)? else { return Ok(None) };
        let parsed = text.parse();
        parsed
            .map(Some)
            .map_err(|_| Stop::Failed(format!("Cannot parse argument '{text}' of option {name}")))
    }

    pub(crate) fn require(&self, name: &str) -> Result<&str, Stop> {
        match self.value(name)? {
            Some(value) => Ok(value),
            None => Err(Stop::Usage(format!("Missing required argument \"[{name}]\""))),
        }
    }

    /// Refuses `others` next to `name`.
    pub(crate) fn excludes(&self, name: &str, others: &[&str]) -> Result<(), Stop> {
        match others.iter().find(|other| self.has(name) && self.has(other)) {
            Some(other) => Err(Stop::Usage(format!(
                "Option \"[{name}]\" can't be used with option \"[{other}]\""
            ))),
            None => Ok(()),
        }
    }

    /// `key=value` pairs from all occurrences of an option; later ones win.
    pub(crate) fn pairs(&self, name: &str) -> BTreeMap<String, String> {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        self.values(name).iter().map(pair).collect()
    }
}

fn find(tool: &Tool, name: &str) -> Result<&'static Opt, Stop> {
    let all = || tool.options.iter().chain(COMMON);
    let exact = |option: &&Opt| option.name == name || option.letter == name;
    if let Some(exact) = all().find(exact) {
        return Ok(exact);
    }
    if name == "zookeeper" {
        return Err(Stop::Failed(
            "zookeeper is not a recognized option: clusters no longer have a ZooKeeper. \
             Use --bootstrap-server HOST:PORT with the address of any broker."
                .into(),
        ));
    }
    let mut fits = all().filter(|option| option.name.starts_with(name));
    match (fits.next(), fits.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let names: Vec<&str> =
                all().map(|option| option.name).filter(|full| full.starts_with(name)).collect();
            Err(Stop::Failed(format!(
                "{name} is not a recognized option: it could be --{}. See --help.",
                names.join(" or --")
            )))
        }
        (None, _) => Err(Stop::Failed(format!("{name} is not a recognized option. See --help."))),
    }
}

/// The options of `tool` in two columns, then its examples.
pub(crate) fn usage(tool: &Tool) -> String {
    let mut out = format!("{:<40}{}\n{:<40}{}", "Option", "Description", "------", "-----------");
    let mut options: Vec<&Opt> = tool.options.iter().chain(COMMON).collect();
    options.sort_by_key(|option| option.name);
    for option in options {
        let left = match option.takes {
            Takes::Nothing => format!("--{}", option.name),
            Takes::Value(what) => format!("--{} <{what}>", option.name),
            Takes::Perhaps(what) => format!("--{} [{what}]", option.name),
        };
        let mut lines = wrap(option.help, 60).into_iter();
        let first = lines.next().unwrap_or_default();
        if left.len() < 40 {
            let _ = write!(out, "\n{left:<40}{first}");
        } else {
            let _ = write!(out, "\n{left}\n{:<40}{first}", "");
        }
        for line in lines {
            let _ = write!(out, "\n{:<40}  {line}", "");
        }
    }
    let _ = write!(out, "\n\nExamples:\n{}", tool.examples.trim_end());
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: Tool = Tool {
        name: "test",
        about: "About.",
        examples: "",
        options: &[
            flag("list", ""),
            value("topic", "t", ""),
            value("topic-id", "t", ""),
            value("partitions", "n", ""),
            perhaps("state", "s", ""),
        ],
        run: |_| Box::pin(async { Ok(()) }),
    };

    fn parse(line: &str) -> Result<Options, Stop> {
        Options::parse(&TOOL, &line.split_whitespace().map(Into::into).collect::<Vec<_>>())
    }

    fn parsed(line: &str) -> String {
        match parse(line) {
            Ok(options) => {
                let one =
                    |(name, values): (&&str, &Vec<String>)| format!("{name}:{}", values.join(","));
                let given: Vec<String> = options.given.iter().map(one).collect();
                format!("{} | {}", given.join(" "), options.rest.join(" "))
            }
            Err(Stop::Usage(message)) => format!("usage: {message}"),
            Err(Stop::Failed(message)) => message,
            Err(Stop::Exit(code)) => format!("exit {code}"),
        }
    }

    #[test]
    fn options_are_read_as_joptsimple_reads_them() {
        let table = [
            ("--list --topic t", "list: topic:t | "),
            ("--topic=t=u", "topic:t=u | "),
            ("-list --part 3", "list: partitions:3 | "),
            ("--topic a --topic b", "topic:a,b | "),
            ("--partitions -1", "partitions:-1 | "),
            ("--state --list", "list: state: | "),
            ("--state Empty x", "state:Empty | x"),
            ("--list -- --topic", "list: | --topic"),
            ("--topic", "Option topic requires an argument"),
            (
                "--top t",
                "top is not a recognized option: it could be --topic or --topic-id. See --help.",
            ),
            ("--nope", "nope is not a recognized option. See --help."),
            ("", "usage: About."),
            ("--list --help", "usage: About."),
        ];
        for (line, expected) in table {
            assert_eq!(parsed(line), expected, "{line}");
        }
    }

    #[test]
    fn zookeeper_is_answered_with_what_to_use_instead() {
        assert!(parsed("--zookeeper localhost:2181").contains("--bootstrap-server HOST:PORT"));
    }

    #[test]
    fn a_value_asked_for_once_may_not_be_given_twice() {
        let options = parse("--topic a --topic b").expect("parses");
        assert!(options.value("topic").is_err());
        assert_eq!(options.values("topic"), ["a", "b"]);
        assert!(parse("--partitions x").expect("parses").number::<i32>("partitions").is_err());
    }
}
