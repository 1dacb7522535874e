"use strict";
(() => {
  let showAll = () => {};
  const form = document.getElementById("filter");
  const named = () => {
    try {
      return document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return null; // no text in UTF-8, so no name of a part
    }
  };
  const reveal = () => {
    const target = named();
    if (!target) return;
    if (target.closest("[hidden]")) showAll();
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    target.scrollIntoView();
  };

  if (form) {
    const status = document.getElementById("count");
    const none = document.getElementById("none");
    const words = (text) => text.split(" ").filter(Boolean);
    const rules = [...document.querySelectorAll(".rule")].map((rule) => ({
      rule,
      items: [...rule.querySelectorAll(".found > li")].map((item) => ({
        item,
        kind: item.dataset.s,
        vms: new Set(words(item.dataset.v)),
        devices: new Set(words(item.dataset.d)),
        text: null,
      })),
      text: rule.querySelector("h3").textContent.toLowerCase(),
    }));
    const total = rules.reduce((sum, one) => sum + one.items.length, 0);
    const hide = (element, hidden) => {
      if (element.hidden !== hidden) element.hidden = hidden;
    };
    const apply = () => {
      const kinds = new Set([...form.querySelectorAll("[name=kind]:checked")].map((box) => box.value));
      const vm = form.elements.vm.value;
      const device = form.elements.device.value;
      const parts = words(form.elements.text.value.toLowerCase());
      let shown = 0;
      for (const one of rules) {
        let here = 0;
        for (const entry of one.items) {
          let fits = kinds.has(entry.kind) && (!vm || entry.vms.has(vm)) && (!device || entry.devices.has(device));
          if (fits && parts.length) {
            entry.text ??= `${one.text} ${entry.item.textContent.toLowerCase()}`;
            fits = parts.every((part) => entry.text.includes(part));
          }
          hide(entry.item, !fits);
          here += fits;
        }
        hide(one.rule, !here);
        shown += here;
      }
      hide(none, shown > 0);
      status.textContent = `${shown} of ${total} entries`;
    };
    let asked = 0;
    const soon = () => {
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(apply);
    };
    form.addEventListener("input", soon);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply));
    showAll = () => {
      form.reset();
      apply();
    };
    document.addEventListener("click", (event) => {
      const more = event.target.closest?.("[data-filter]");
      if (!more) return;
      const [name, value] = more.dataset.filter.split("=");
      form.reset();
      form.elements[name].value = value;
      apply();
    });
    form.hidden = false;
    addEventListener("pageshow", apply); // a browser may have kept the controls' values
  }

  addEventListener("hashchange", reveal);
  reveal();

  document.addEventListener("click", (event) => {
    const node = event.target.closest?.(".topology [data-a]");
    if (!node) return;
    const name = node.dataset.a.replaceAll(/[:.]/g, "-");
    location.hash = node.classList.contains("folded") ? `v-${name}` : `d-${name}`;
  });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => {
    for (const box of opened) box.open = false;
  });
})();
