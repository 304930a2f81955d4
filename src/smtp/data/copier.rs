//! Content on its way into a body.

/// Copies input to a body in runs that are as long as possible.
pub struct Copier<'a> {
    input: &'a [u8],
    pub body: &'a mut Vec<u8>,
    /// Octets consumed. Invariant: copied <= at <= input.len().
    pub at: usize,
    /// Octets consumed that are in the body, or were replaced there.
    copied: usize,
}

impl<'a> Copier<'a> {
    pub fn new(input: &'a [u8], body: &'a mut Vec<u8>) -> Self {
        Copier {
            input,
            body,
            at: 0,
            copied: 0,
        }
    }

    pub fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    pub fn keep(&mut self, bytes: usize) {
        self.at += bytes;
    }

    pub fn insert(&mut self, text: &[u8]) {
        self.flush();
        self.body.extend_from_slice(text);
    }

    pub fn replace(&mut self, bytes: usize, text: &[u8]) {
        self.insert(text);
        self.at += bytes;
        self.copied = self.at;
    }

    pub fn flush(&mut self) {
        self.body
            .extend_from_slice(&self.input[self.copied..self.at]);
        self.copied = self.at;
    }
}
