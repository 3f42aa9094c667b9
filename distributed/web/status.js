// Fills the tables from status.json every two seconds. All text goes in as text, never as markup.
"use strict";

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit ? count.toFixed(1) : String(count)) + " " + units[unit];
}

function fill(id, rows) {
  const body = document.querySelector("#" + id + " tbody");
  body.replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    for (const value of row) {
      const cell = document.createElement("td");
      cell.textContent = String(value);
      line.append(cell);
    }
    return line;
  }));
}

function runs(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) || 0) + 1);
  return [...counts].map(([name, count]) => (count > 1 ? count + " × " + name : name)).join(", ");
}

function resources(member) {
  const used = member.resources_used || {};
  return Object.entries(member.resources || {}).map(([name, all]) => name + " " + (used[name] || 0) + "/" + all).join(", ");
}

function show(status) {
  const cores = status.members.reduce((sum, member) => sum + member.ncores, 0);
  document.querySelector("#address").textContent = status.address;
  document.querySelector("#summary").textContent =
    status.members.length + " workers, " + cores + " cores, " + status.keys + " keys, " + bytes(status.nbytes) +
    (status.spliced ? ", " + status.spliced + " connections passed on" : "") +
    ", up for " + Math.round(status.uptime_s) + " s";
  fill("members", status.members.map((member) => [
    member.address + (member.relayed ? " via center" : ""), member.name, member.ncores, member.running, member.queued, member.keys, bytes(member.nbytes),
    bytes(member.stored_bytes), bytes(member.spilled_bytes), bytes(member.memory_limit), resources(member),
    (member.leaving ? "(leaving) " : "") + runs(member.running_names),
  ]));
  fill("clients", status.clients.map((client) => [
    client.client, client.name, client.connected ? "open" : "closed, its lease runs",
  ]));
  fill("names", Object.entries(status.names));
}

async function update() {
  try {
    const answer = await fetch("status.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
  setTimeout(update, 2000);
}

update();
