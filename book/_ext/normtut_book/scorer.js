// Chapters first: what a reader looks for is explained there, and the API comes after.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,

  // A chapter gains by each word of the query that stands in its title; words of the glossary (book/glossary.yml),
  // which Sphinx gives up to 100, decide over all of that.
  score: ([page, title, , description, score]) => {
    if (description !== null) return score - 80;
    if (!/^book\/\d\d_/.test(page)) return score - 50;
    const asked = (new URLSearchParams(location.search).get("q") || "").toLowerCase().split(/\W+/);
    const inTitle = asked.filter((word) => word.length > 2 && title.toLowerCase().includes(word)).length;
    return score + 10 * inTitle;
  },
};
