// The search of the site, in the place and with the interface of Fuse, which smalldocs asks. Fuse matches loosely:
// of "dose" it thinks "propose". Here every word must occur; whole words count most, titles more than text.
class Fuse {
  constructor(entries) {
    const parts = item => ["title", "section", "text"].map(part => Fuse.plain(item[part]));
    this.entries = entries.map(item => ({ item, parts: parts(item) }));
  }

  // ₂ is found by 2, and case does not matter.
  static plain(text) { return (text || "").normalize("NFKC").toLowerCase(); }

  // Two patterns of a word: standing alone, and at the beginning of a word.
  static patterns(word) {
    const letters = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const before = "(?<![\\p{L}\\p{N}])", after = "(?![\\p{L}\\p{N}])";
    return { word, whole: new RegExp(before + letters + after, "gu"), begins: new RegExp(before + letters, "u") };
  }

  static score(parts, { word, whole, begins }) {
    const weights = [20, 30, 1]; // a section is nearer to what is sought than the title of its page
    let sum = 0;
    parts.forEach((part, i) => {
      if (!part.includes(word)) return;
      const found = part.match(whole);
      sum += weights[i] * (found ? 4 + Math.min(found.length, 4) : begins.test(part) ? 2 : 1);
      if (part === word) sum += 2 * weights[i];
    });
    return sum;
  }

  search(query, { limit }) {
    const sought = Fuse.plain(query).split(/\s+/).filter(Boolean).map(Fuse.patterns);
    const scored = this.entries.map(({ item, parts }) => {
      const scores = sought.map(patterns => Fuse.score(parts, patterns));
      return { item, score: scores.includes(0) ? 0 : scores.reduce((a, b) => a + b, 0) };
    });
    return scored.filter(hit => hit.score > 0).sort((a, b) => b.score - a.score).slice(0, limit);
  }
}
window.Fuse = Fuse;
