// What is wrong with the layout of a page, as sentences: texts outside the window or their box, on top of each other, or
// too pale to read (WCAG 2.1, 1.4.3).
(() => {
  const wrong = [];
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const owner = node.parentElement;
    if (!node.data.trim() || ["DESC", "TITLE"].includes(owner.tagName.toUpperCase())) continue;
    if (!owner.checkVisibility() || getComputedStyle(owner).clipPath !== "none") continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      if (rect.width > 0.5 && rect.height > 0.5) texts.push({ owner, rect, said: node.data.trim().slice(0, 40) });
    }
  }
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
  for (const { rect, said } of texts) {
    if (rect.left < -0.5 || rect.right > wide + 0.5) wrong.push(`outside the window: ${said}`);
  }
  texts.sort((one, other) => one.rect.top - other.rect.top);
  texts.forEach(({ rect, owner, said }, place) => {
    for (let next = place + 1; next < texts.length && texts[next].rect.top < rect.bottom - 2; next += 1) {
      const other = texts[next];
      const across = Math.min(rect.right, other.rect.right) - Math.max(rect.left, other.rect.left);
      if (across > 1 && other.owner !== owner) wrong.push(`on top of each other: ${said} | ${other.said}`);
    }
  });
  for (const box of document.querySelectorAll("svg .box")) {
    const frame = box.querySelector("rect").getBoundingClientRect();
    for (const text of box.querySelectorAll("text")) {
      const rect = text.getBoundingClientRect();
      if (rect.width && (rect.left < frame.left || rect.right > frame.right || rect.bottom > frame.bottom + 1)) {
        wrong.push(`outside its box: ${text.textContent.slice(0, 40)}`);
      }
    }
  }
  const channels = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = (colour) =>
    channels(colour).slice(0, 3).map((one) => one / 255)
      .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
      .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const opaque = (colour) => colour && colour !== "none" && channels(colour)[3] !== 0;
  const behind = (owner, rect) => {
    const drawing = owner.closest("svg");
    const x = (rect.left + rect.right) / 2;
    const y = (rect.top + rect.bottom) / 2;
    const under = drawing ? [...drawing.querySelectorAll("rect")].filter((one) => {
      const area = one.getBoundingClientRect();
      return area.left <= x && x <= area.right && area.top <= y && y <= area.bottom;
    }) : [];
    if (under.length) return getComputedStyle(under[under.length - 1]).fill;
    for (let one = owner; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (opaque(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  for (const { owner, rect, said } of texts) {
    const style = getComputedStyle(owner);
    const [one, other] = [light(owner.closest("svg") ? style.fill : style.color), light(behind(owner, rect))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${said}`);
  }
  return { wrong, texts: texts.length, opened: document.querySelectorAll("details[open]").length };
})();
