// The panel that shows how one value was computed: windows, kernels, products and sums in numbers.

const MOST_WINDOWS = 12; // maps whose window is shown in numbers

/** Numbers in a square, each on the colour of its value. */
function numberGrid(name, values, columns, scale, winner = null) {
  const rows = [];
  for (let start = 0; start < values.length; start += columns) {
    const cells = values.slice(start, start + columns).map((value, i) =>
      element(
        "td",
        {
          style: colourOf(value, scale),
          className: start + i === winner ? "winner" : "",
          title: exact(value),
        },
        short(value),
      ),
    );
    rows.push(element("tr", {}, ...cells));
  }
  const caption = element("caption", {}, name);
  const table = element("table", { className: "numbers" }, caption, element("tbody", {}, ...rows));
  table.style.setProperty("--cells", columns);
  return table;
}

function windowNodes(source, { windows, scale, total }) {
  const scaleOfAll = (name) => signedScaleOf(windows.flatMap((each) => each[name]));
  const [weightScale, productScale] = [scaleOfAll("weights"), scaleOfAll("products")];
  const nodes = windows.slice(0, MOST_WINDOWS).map((each) => {
    const label = windows.length > 1 ? `${source}, map ${each.channel}: ${signed(each.sum)}` : "";
    return element(
      "div",
      { className: "window" },
      ...(label ? [element("h4", {}, label)] : []),
      element(
        "div",
        { className: "equation" },
        numberGrid("window", each.values, each.size, scale),
        element("span", {}, "×"),
        numberGrid("kernel", each.weights, each.size, weightScale),
        element("span", {}, "="),
        numberGrid("products", each.products, each.size, productScale),
      ),
    );
  });
  const rest = windows.slice(MOST_WINDOWS);
  if (rest.length) {
    const sum = sumOf(rest.map((each) => each.sum));
    nodes.push(element("p", {}, `${rest.length} more maps: ${signed(sum)}`));
  }
  const text = "Cells are rounded to two digits; what is added up are the values themselves.";
  return [totalNode(total), ...nodes, element("p", { className: "faint" }, text)];
}

/** sum + bias = …, and the activation. */
function totalNode({ shown: [sum, bias], before, after, activation }) {
  const terms = [
    ["sum of products", exact(sum)],
    ["bias", signed(bias)],
    [activation ? "together" : "logit", exact(before)],
  ];
  if (activation) terms.push([activationName(activation), exact(after)]);
  return element(
    "dl",
    { className: "total" },
    ...terms.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}

function contributionNodes(source, { contributions, total }) {
  const { strongest, others, rest } = contributions;
  const largest = Math.max(...strongest.map((each) => Math.abs(each.product)), Math.abs(rest)) || 1;
  const rows = strongest.map(({ index, value, weight, product }) => [
    `${source} ${source === "flatten" ? "number" : "unit"} ${index}`,
    `${exact(value)} × ${exact(weight)}`,
    product,
  ]);
  if (others) rows.push([`${others} others`, "", rest]);
  const lines = rows.map(([name, factors, product]) => {
    const style = { width: `${(100 * Math.abs(product)) / largest}%` };
    const bar = element("i", { className: product < 0 ? "below" : "above", style });
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", {}, factors),
      element("td", {}, signed(product)),
      element("td", { className: "bar", ariaHidden: "true" }, bar),
    );
  });
  const header = ["", "value × weight", "contribution"].map((name) =>
    element("th", { scope: "col" }, name),
  );
  return [
    totalNode(total),
    element(
      "table",
      { className: "contributions" },
      element("caption", {}, "The strongest contributions"),
      element("thead", {}, element("tr", {}, ...header)),
      element("tbody", {}, ...lines),
    ),
  ];
}

/** What the panel shows of an explanation. */
function panelNodes(stage, explanation) {
  const nodes = [
    element("h3", {}, stage.title),
    element("p", { className: "sentence" }, explanation.sentence),
  ];
  if (explanation.windows) nodes.push(...windowNodes(stage.source, explanation));
  if (explanation.contributions) nodes.push(...contributionNodes(stage.source, explanation));
  if (explanation.block) {
    const { values, winner } = explanation.block;
    const grid = numberGrid("the four values", values, 2, explanation.scale, winner);
    grid.style.setProperty("--cell", "2.75rem");
    nodes.push(grid);
  }
  return nodes;
}
