// usage: node sign.js keys FOLDER                          creates the key of a registry, and a TUF key repository like sigstore's
//        node sign.js sign FOLDER NAME VERSION INTEGRITY   prints {signature, attestation} of one version
'use strict'
const crypto = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')

const FOREVER = '2999-01-01T00:00:00Z'
const PUBLISH = 'https://github.com/npm/attestation/tree/main/specs/publish/v0.1'
const base64 = (data) => Buffer.from(data).toString('base64')
const sha256 = (data, form) => crypto.createHash('sha256').update(data).digest(form)

function canonical (value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(',')}}`
}

function keys (folder) {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
  const der = publicKey.export({ type: 'spki', format: 'der' })
  fs.writeFileSync(path.join(folder, 'key.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 })
  const scheme = 'ecdsa-sha2-nistp256'
  const key = { expires: null, keyid: `SHA256:${sha256(der, 'base64')}`, keytype: scheme, scheme, key: base64(der) }
  const raw = { rawBytes: key.key, keyDetails: 'PKIX_ECDSA_P256_SHA_256', validFor: { start: '2000-01-01T00:00:00Z' } }
  const log = { baseUrl: 'http://localhost', hashAlgorithm: 'SHA2_256', publicKey: raw, logId: { keyId: sha256(der, 'base64') } }
  const mediaType = 'application/vnd.dev.sigstore.trustedroot+json;version=0.1'
  const trusted = JSON.stringify({ mediaType, tlogs: [log], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [] })
  keyRepository(path.join(folder, 'tuf'), trusted)
  fs.writeFileSync(path.join(folder, 'keys.json'), JSON.stringify({ keys: [key] }))
}

function keyRepository (folder, trusted) {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ed25519')
  const hex = publicKey.export({ type: 'spki', format: 'der' }).subarray(-32).toString('hex')
  const key = { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: hex } }
  const keyid = sha256(canonical(key), 'hex')
  const role = { keyids: [keyid], threshold: 1 }
  const common = { spec_version: '1.0.31', version: 1, expires: FOREVER }
  const length = Buffer.byteLength(trusted)
  const roles = {
    root: { keys: { [keyid]: key }, roles: { root: role, timestamp: role, snapshot: role, targets: role }, consistent_snapshot: false },
    timestamp: { meta: { 'snapshot.json': { version: 1 } } },
    snapshot: { meta: { 'targets.json': { version: 1 } } },
    targets: { targets: { 'trusted_root.json': { length, hashes: { sha256: sha256(trusted, 'hex') } } } }
  }
  fs.mkdirSync(path.join(folder, 'targets'), { recursive: true })
  fs.writeFileSync(path.join(folder, 'targets', 'trusted_root.json'), trusted)
  for (const [name, more] of Object.entries(roles)) {
    const signed = { _type: name, ...common, ...more }
    const sig = crypto.sign(null, Buffer.from(canonical(signed)), privateKey).toString('hex')
    fs.writeFileSync(path.join(folder, `${name}.json`), JSON.stringify({ signatures: [{ keyid, sig }], signed }))
  }
}

function sign (folder, name, version, integrity) {
  const privateKey = fs.readFileSync(path.join(folder, 'key.pem'))
  const [{ keyid, key }] = JSON.parse(fs.readFileSync(path.join(folder, 'keys.json'))).keys
  const signed = (data) => crypto.sign('sha256', Buffer.from(data), privateKey).toString('base64')
  const sha512 = Buffer.from(integrity.replace('sha512-', ''), 'base64').toString('hex')
  const payload = JSON.stringify({
    _type: 'https://in-toto.io/Statement/v0.1',
    subject: [{ name: `pkg:npm/${name.replace(/^@/, '%40')}@${version}`, digest: { sha512 } }],
    predicateType: PUBLISH,
    predicate: { name, version }
  })
  const payloadType = 'application/vnd.in-toto+json'
  const sig = signed(`DSSEv1 ${payloadType.length} ${payloadType} ${Buffer.byteLength(payload)} ${payload}`)
  const spec = {
    payloadHash: { algorithm: 'sha256', value: sha256(payload, 'hex') },
    signatures: [{ signature: sig, verifier: key }]
  }
  const body = base64(JSON.stringify({ apiVersion: '0.0.1', kind: 'dsse', spec }))
  const logId = sha256(Buffer.from(key, 'base64'))
  const integratedTime = Math.floor(Date.now() / 1000)
  const promise = signed(canonical({ body, integratedTime, logIndex: 1, logID: logId.toString('hex') }))
  const entry = {
    logIndex: '1',
    logId: { keyId: base64(logId) },
    kindVersion: { kind: 'dsse', version: '0.0.1' },
    integratedTime: String(integratedTime),
    inclusionPromise: { signedEntryTimestamp: promise },
    canonicalizedBody: body
  }
  const bundle = {
    mediaType: 'application/vnd.dev.sigstore.bundle+json;version=0.1',
    verificationMaterial: { publicKey: { hint: keyid }, tlogEntries: [entry] },
    dsseEnvelope: { payload: base64(payload), payloadType, signatures: [{ sig, keyid }] }
  }
  const attestation = { predicateType: PUBLISH, bundle }
  console.log(JSON.stringify({ signature: { keyid, sig: signed(`${name}@${version}:${integrity}`) }, attestation }))
}

const [verb, ...words] = process.argv.slice(2)
const verbs = { keys, sign }
verbs[verb](...words)
