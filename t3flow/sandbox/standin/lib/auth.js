// Pairing credentials and sessions. Old builds have a role column, new ones scopes.
const crypto = require("node:crypto");
const { schemaLevel } = require("./behavior.js");
const { key, now } = require("./database.js");

const ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
const SCOPES = ["orchestration:read", "orchestration:operate", "terminal:operate", "review:write", "relay:read"];
const OWNER_SCOPES = [...SCOPES, "auth:manage"];
const old = schemaLevel < 31;
const column = old ? "role" : "scopes";
const grantOf = (owner) => (old ? (owner ? "owner" : "client") : JSON.stringify(owner ? OWNER_SCOPES : SCOPES));
const isOwner = (grant) => grant === "owner" || grant.includes("auth:manage");
const shown = (grant) => (old ? { role: grant } : { scopes: JSON.parse(grant) });

const credential = () => Array.from(crypto.randomBytes(12), (byte) => ALPHABET[byte % ALPHABET.length]).join("");
const later = (milliseconds) => new Date(Date.now() + milliseconds).toISOString();

function milliseconds(ttl) {
  const match = /^(\d+)\s*(s|m|h|d)$/.exec(ttl);
  if (!match) throw new Error(`Invalid duration: ${ttl}`);
  return Number(match[1]) * { s: 1e3, m: 6e4, h: 36e5, d: 864e5 }[match[2]];
}

function createLink(database, { owner = false, ttl = "5m" } = {}) {
  const link = { id: crypto.randomUUID(), credential: credential(), expiresAt: later(milliseconds(ttl)) };
  database
    .prepare(`insert into auth_pairing_links (id, credential, method, ${column}, subject, created_at, expires_at) values (?, ?, 'one-time-token', ?, ?, ?, ?)`)
    .run(link.id, link.credential, grantOf(owner), owner ? "owner" : "client", now(), link.expiresAt);
  return { ...link, ...shown(grantOf(owner)) };
}

const listLinks = (database) =>
  database.prepare(`select id, ${column}, created_at, expires_at from auth_pairing_links where revoked_at is null and consumed_at is null`).all();
const listSessions = (database) =>
  database.prepare(`select session_id, ${column}, issued_at, expires_at from auth_sessions where revoked_at is null`).all();

// Returns whether there was such a session.
const revokeSession = (database, id) =>
  database.prepare("update auth_sessions set revoked_at = ? where session_id = ? and revoked_at is null").run(now(), id).changes === 1;

// Consumes a credential and returns its grant, or null if it is invalid.
function consume(database, text) {
  const link = database.prepare(`select id, ${column} as granted, expires_at from auth_pairing_links where credential = ? and consumed_at is null and revoked_at is null`).get(text);
  if (!link || link.expires_at < now()) return null;
  const used = database.prepare("update auth_pairing_links set consumed_at = ? where id = ? and consumed_at is null").run(now(), link.id);
  return used.changes === 1 ? link.granted : null;
}

function issue(database, baseDir, granted) {
  const id = crypto.randomUUID();
  const expires = later(30 * 864e5);
  database
    .prepare(`insert into auth_sessions (session_id, subject, ${column}, method, issued_at, expires_at) values (?, ?, ?, 'browser-session-cookie', ?, ?)`)
    .run(id, isOwner(granted) ? "owner" : "client", granted, now(), expires);
  const payload = Buffer.from(JSON.stringify({ sid: id, exp: expires })).toString("base64url");
  return { token: `${payload}.${sign(baseDir, payload)}`, expires };
}

const sign = (baseDir, payload) => crypto.createHmac("sha256", key(baseDir)).update(payload).digest("base64url");

// Returns the live session of a token: {granted, expires}, or null. Throws if the table has another schema.
function session(database, baseDir, token) {
  const [payload, signature] = String(token ?? "").split(".");
  if (!payload || !signature || sign(baseDir, payload) !== signature) return null;
  const { sid } = JSON.parse(Buffer.from(payload, "base64url"));
  const row = database.prepare(`select ${column} as granted, expires_at from auth_sessions where session_id = ? and revoked_at is null`).get(sid);
  return row && row.expires_at > now() ? { granted: row.granted, expires: row.expires_at } : null;
}

module.exports = { consume, createLink, grantOf, isOwner, issue, listLinks, listSessions, old, revokeSession, session, shown };
