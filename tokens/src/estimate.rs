//! How many tokens a text is likely to be to a model whose tokenizer is not public.
//!
//! OpenAI, Anthropic and Google all tell "about four characters a token" for English. Other scripts
//! take more: their characters are rarer in what tokenizers learned from. So a character counts by
//! how long it is in UTF-8: one byte (ASCII) a quarter of a token, two bytes (accented Latin, Greek,
//! Cyrillic, Hebrew, Arabic) half a token, more (Chinese, Japanese, Korean, Indic scripts, emoji) one
//! token. Code and numbers come to more than this says, by up to a half.

/// Rounded up: no text but the empty one is free.
pub fn tokens(text: &str) -> i64 {
    let quarters: i64 = text.bytes().map(quarters_of_lead).sum();
    quarters.div_euclid(4) + i64::from(quarters % 4 != 0)
}

/// What the character that this byte begins counts for, in quarters of a token; the bytes that
/// follow it count for nothing.
fn quarters_of_lead(byte: u8) -> i64 {
    match byte {
        0x00..0x80 => 1,
        0x80..0xc0 => 0,
        0xc0..0xe0 => 2,
        0xe0.. => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encoding;

    #[test]
    fn characters_count_by_their_script() {
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("a"), 1);
        assert_eq!(tokens("four"), 1);
        assert_eq!(tokens("fives"), 2);
        assert_eq!(tokens("Привет"), 3);
        assert_eq!(tokens("世界"), 2);
        assert_eq!(tokens("👍"), 1);
    }

    #[test]
    fn prose_is_estimated_near_what_is_counted() {
        let english = "When a model is asked, the words of the question are cut into pieces that it \
            knows, and each of the pieces is looked up in a table. What is paid for is the number of \
            the pieces that went in, and of those that came out again.";
        let german = "Für die Abrechnung zählt jedes Stück, das hinein- und wieder herausgeht; \
            längere Wörter werden häufig in mehrere Stücke zerlegt, und jedes davon kostet.";
        let chinese = "模型收到问题之后,会把文字切分成它认识的小块,然后逐一查表。费用按照输入和输出的小块数量计算。";
        for text in [english, german, chinese] {
            let counted = Encoding::O200kBase.tokenizer().count(text) as f64;
            let ratio = tokens(text) as f64 / counted;
            assert!((0.7..1.6).contains(&ratio), "{ratio}: {text}");
        }
    }
}
