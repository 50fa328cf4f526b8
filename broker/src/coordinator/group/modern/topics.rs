//! How many members subscribe to each topic, by name and by a resolved pattern.

use imbl::OrdMap;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subscribers {
    /// Members that name the topic.
    pub by_name: usize,
    /// Patterns that match it, each counted once however many members subscribe to it.
    pub by_pattern: usize,
}

/// By the name of the topic; a topic without subscribers is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topics(OrdMap<String, Subscribers>);

impl Topics {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    /// In order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn subscribers(&self) -> impl Iterator<Item = Subscribers> {
        self.0.values().copied()
    }

    pub fn add_names<'a>(&mut self, topics: impl IntoIterator<Item = &'a String>) {
        self.each(topics, |it| it.by_name += 1);
    }

    pub fn remove_names<'a>(&mut self, topics: impl IntoIterator<Item = &'a String>) {
        self.each(topics, |it| it.by_name = it.by_name.saturating_sub(1));
    }

    pub fn add_pattern<'a>(&mut self, topics: impl IntoIterator<Item = &'a String>) {
        self.each(topics, |it| it.by_pattern += 1);
    }

    pub fn remove_pattern<'a>(&mut self, topics: impl IntoIterator<Item = &'a String>) {
        self.each(topics, |it| it.by_pattern = it.by_pattern.saturating_sub(1));
    }

    fn each<'a>(
        &mut self,
        topics: impl IntoIterator<Item = &'a String>,
        change: impl Fn(&mut Subscribers),
    ) {
        for topic in topics {
            let mut count = self.0.get(topic).copied().unwrap_or_default();
            change(&mut count);
            if count == Subscribers::default() {
                self.0.remove(topic);
            } else {
                self.0.insert(topic.clone(), count);
            }
        }
    }

    /// Whether each of `members` names the same topics.
    pub fn are_named_by_all(&self, members: usize) -> bool {
        self.subscribers().all(|it| it.by_name == members)
    }
}
