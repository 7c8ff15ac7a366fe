// Run in the live page: what would disturb a person, as sentences.
const faults = [];
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth} wide in ${width}`);
const apart = (a, b) => a.right <= b.left + 0.5 || b.right <= a.left + 0.5 || a.bottom <= b.top + 0.5 || b.bottom <= a.top + 0.5;
const svg = document.getElementById("time").getBoundingClientRect();
const texts = [...document.querySelectorAll("#time text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
for (const [name, box] of texts)
  if (box.left < svg.left - 0.5 || box.right > svg.right + 0.5 || box.top < svg.top - 0.5 || box.bottom > svg.bottom + 0.5) faults.push(`${name} leaves the picture`);
texts.forEach(([name, box], i) => texts.slice(i + 1).forEach(([other, beside]) => { if (!apart(box, beside)) faults.push(`${name} lies on ${other}`); }));
if (!texts.some(([name]) => name === "now")) faults.push("the axis of time has no end");
if (!texts.some(([name]) => name.endsWith("iB"))) faults.push("the axis of bytes has no unit");
const contrast = (one, other) => {
  const light = (colour) => { const [r, g, b] = colour.match(/[\d.]+/g).map((n) => { n /= 255; return n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const [a, b] = [light(one), light(other)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const card = getComputedStyle(document.querySelector("section")).backgroundColor;
for (const element of document.querySelectorAll("td, th, h2, #legend li, .step span, .step b, .step small")) {
  const ratio = contrast(getComputedStyle(element).color, card);
  if (ratio < 4.5) faults.push(`${element.textContent}: contrast ${ratio.toFixed(1)}`);
  if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0 && getComputedStyle(element).display !== "inline") faults.push(`${element.textContent} is cut off`);
}
const colours = [...document.querySelectorAll("#legend i:not(.rss)")].map((mark) => getComputedStyle(mark).backgroundColor);
if (new Set(colours).size !== colours.length) faults.push("two colours of the legend are the same");
for (const colour of colours) if (contrast(colour, card) < 1.4) faults.push(`${colour} can hardly be seen`);
return faults;
