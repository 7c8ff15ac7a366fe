//! An input as a row of small numbers. At its end it says zero, and that it is over.

/// What is left of an input.
pub struct Input<'a>(std::slice::Iter<'a, u8>);

impl<'a> Input<'a> {
    /// The whole input.
    pub fn new(data: &'a [u8]) -> Input<'a> {
        Input(data.iter())
    }

    /// The next operation, until the input is over.
    pub fn operation(&mut self) -> Option<u8> {
        self.0.next().copied()
    }

    /// The next byte.
    pub fn byte(&mut self) -> usize {
        self.0.next().copied().unwrap_or(0).into()
    }

    /// A number below `bound`, which is not zero and at most 65,536 to be reached throughout.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.byte() << 8 | self.byte()) % bound
    }

    /// A size as programs ask for: mostly small, at times large, of every order.
    pub fn size(&mut self) -> usize {
        match self.byte() {
            tiny @ 0..120 => tiny,
            few @ 120..200 => (few - 119) * 8 + self.byte(),
            some @ 200..235 => (some - 199) * 1000 + self.byte(),
            many @ 235..250 => (many - 234) * 20_000 + 61 * self.byte(),
            most => (most - 249) * 500_000 + 4099 * self.byte(),
        }
    }
}
