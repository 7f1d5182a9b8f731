// What programs do with ClickHouse's official JavaScript client, unchanged, against the embedded engine: one line of output a check.
'use strict'
const { createClient, ClickHouseError } = require('@clickhouse/client')
const assert = require('node:assert')
const { Readable } = require('node:stream')
const { randomUUID } = require('node:crypto')

const [, , url, username, password] = process.argv
let failed = 0
async function check(name, f) {
  try {
    await f()
    console.log(`ok ${name}`)
  } catch (e) {
    failed++
    console.log(`not ok ${name}: ${e && e.stack ? e.stack.split('\n').slice(0, 4).join(' | ') : e}`)
  }
}
const refused = async (promise, code) => {
  try {
    await promise
  } catch (e) {
    assert(e instanceof ClickHouseError, `${e}`)
    assert.strictEqual(e.code, String(code), e.message)
    return e
  }
  assert.fail('was not refused')
}

async function everything(label, compression) {
  const db = `js_${label}`
  const client = createClient({ url, username, password, compression, request_timeout: 120000 })
  const c = (name, f) => check(`${label}: ${name}`, f)
  await c('ping', async () => assert((await client.ping({ select: true })).success && (await client.ping()).success))
  await c('command', async () => {
    await client.command({ query: `CREATE DATABASE IF NOT EXISTS ${db}` })
    const r = await client.command({ query: `CREATE TABLE ${db}.t (id UInt64, name String, tags Array(String), m Map(String, UInt8), n Nullable(Float64), at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY id`, clickhouse_settings: { wait_end_of_query: 1 } })
    assert(r.query_id)
  })
  const row = (i) => ({ id: String(i), name: `row\n${i}\t'"`, tags: ['a', 'b'], m: { k: 1 }, n: i % 2 ? 0.5 : null, at: '2026-03-04 05:06:07.890' })
  await c('insert of rows', async () => {
    const r = await client.insert({ table: `${db}.t`, values: Array.from({ length: 1000 }, (_, i) => row(i)), format: 'JSONEachRow' })
    assert(r.executed)
    assert.strictEqual(r.summary.written_rows, '1000')
  })
  await c('insert of a stream', async () => {
    await client.insert({ table: `${db}.t`, values: Readable.from((function* () { for (let i = 1000; i < 20000; i++) yield row(i) })(), { objectMode: true }), format: 'JSONEachRow' })
  })
  await c('insert of text', async () => {
    await client.insert({ table: `${db}.t`, columns: ['id', 'name'], values: Readable.from(['20000,one\n20001,"two\n\n"\n'], { objectMode: false }), format: 'CSV' })
    await client.insert({ table: `${db}.t`, columns: ['id'], values: [[20002], [20003]], format: 'JSONCompactEachRow' })
  })
  await c('counts', async () => {
    const r = await client.query({ query: `SELECT count() AS n, uniqExact(id) AS u, countIf(name LIKE 'row%') AS r FROM ${db}.t`, format: 'JSONEachRow' })
    assert.deepStrictEqual((await r.json()).map((x) => [Number(x.n), Number(x.u), Number(x.r)]), [[20004, 20004, 20000]])
    assert.strictEqual(r.response_headers['x-clickhouse-format'], 'JSONEachRow')
  })
  for (const format of ['JSON', 'JSONEachRow', 'JSONCompact', 'JSONStrings', 'JSONCompactEachRow', 'JSONCompactEachRowWithNamesAndTypes', 'JSONObjectEachRow', 'JSONStringsEachRow']) {
    await c(format, async () => {
      const r = await (await client.query({ query: `SELECT id, name FROM ${db}.t WHERE id < 3 ORDER BY id`, format })).json()
      assert(JSON.stringify(r).includes('row\\n2'), JSON.stringify(r))
    })
  }
  for (const format of ['CSV', 'CSVWithNames', 'TabSeparated', 'TabSeparatedWithNamesAndTypes', 'CustomSeparated', 'Pretty']) {
    await c(format, async () => assert((await (await client.query({ query: `SELECT id FROM ${db}.t WHERE id = 77`, format })).text()).includes('77')))
  }
  await c('stream', async () => {
    let n = 0
    const r = await client.query({ query: `SELECT * FROM ${db}.t`, format: 'JSONEachRow', clickhouse_settings: { max_block_size: 1000 } })
    for await (const rows of r.stream()) for (const x of rows) { x.json(); n++ }
    assert.strictEqual(n, 20004)
  })
  await c('progress rows', async () => {
    let n = 0
    const r = await client.query({ query: 'SELECT number FROM system.numbers LIMIT 100', format: 'JSONEachRowWithProgress' })
    for await (const rows of r.stream()) for (const x of rows) if ('row' in x.json()) n++
    assert.strictEqual(n, 100)
  })
  await c('empty result', async () => assert.deepStrictEqual(await (await client.query({ query: `SELECT * FROM ${db}.t WHERE 0`, format: 'JSONEachRow' })).json(), []))
  await c('parameters', async () => {
    const r = await client.query({
      query: 'SELECT {u:UInt8} AS u, {s:String} AS s, {a:Array(String)} AS a, {d:DateTime} AS d, {n:Nullable(String)} AS n, {b:Bool} AS b, {i:Identifier} AS i FROM (SELECT 5 AS five)',
      query_params: { u: 200, s: "it's\t\\ a\nline", a: ["x'y", 'z'], d: new Date(Date.UTC(2026, 0, 2, 3, 4, 5)), n: null, b: true, i: 'five' }, format: 'JSONEachRow',
    })
    assert.deepStrictEqual(await r.json(), [{ u: 200, s: "it's\t\\ a\nline", a: ["x'y", 'z'], d: '2026-01-02 03:04:05', n: null, b: true, i: 5 }])
  })
  await c('errors', async () => {
    const e = await refused(client.query({ query: 'SELECT * FROM nowhere.nothing', format: 'JSON' }), 81)
    assert.strictEqual(e.type, 'UNKNOWN_DATABASE')
    await refused(client.command({ query: 'SELEC' }), 62)
    await refused(client.insert({ table: `${db}.t`, values: [{ id: 'x' }], format: 'JSONEachRow' }), 27).catch(() => refused(client.insert({ table: `${db}.t`, values: [{ id: 'x' }], format: 'JSONEachRow' }), 72))
    await refused(client.command({ query: 'SYSTEM SHUTDOWN' }), 497)
  })
  await c('error in the middle of a stream', async () => {
    const r = await client.query({ query: "SELECT number, throwIf(number = 5000, 'five thousand') FROM numbers(10000)", format: 'JSONEachRow', clickhouse_settings: { max_block_size: 100, max_threads: 1 } })
    let n = 0
    const e = await refused((async () => { for await (const rows of r.stream()) n += rows.length })(), 395)
    assert(e.message.includes('five thousand') && n > 0, `${n} rows: ${e.message}`)
  })
  await c('time limit', () => refused(client.query({ query: 'SELECT sum(number) FROM system.numbers', format: 'JSON', clickhouse_settings: { max_execution_time: 1 } }), 159))
  await c('sessions and temporary tables', async () => {
    const own = createClient({ url, username, password, compression, session_id: randomUUID(), max_open_connections: 1 })
    await own.command({ query: 'SET max_block_size = 1234' })
    await own.command({ query: 'CREATE TEMPORARY TABLE mine (a UInt8)' })
    await own.insert({ table: 'mine', values: [{ a: 3 }, { a: 4 }], format: 'JSONEachRow' })
    const r = await own.query({ query: "SELECT sum(a) AS s, any(getSetting('max_block_size')) AS b FROM mine", format: 'JSONEachRow' })
    assert.deepStrictEqual((await r.json()).map((x) => [Number(x.s), Number(x.b)]), [[7, 1234]])
    await own.close()
    await refused(client.query({ query: 'SELECT * FROM mine', format: 'JSON' }), 60)
  })
  const running = async (id) => {
    const r = await client.query({ query: "SELECT count() AS n FROM system.processes WHERE Settings['log_comment'] = {id:String}", query_params: { id }, format: 'JSONEachRow' })
    return Number((await r.json())[0].n)
  }
  const until = async (f) => { for (let i = 0; i < 600; i++) { if (await f()) return; await new Promise((ok) => setTimeout(ok, 50)) } assert.fail('waited in vain') }
  const endless = "SELECT count() FROM system.numbers WHERE NOT ignore(sleepEachRow(0.05)) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
  await c('abort', async () => {
    const query_id = randomUUID(), controller = new AbortController()
    const q = client.query({ query: endless, query_id, abort_signal: controller.signal, format: 'JSON' }).then(() => assert.fail('ended well'), (e) => e)
    await until(async () => (await running(query_id)) === 1)
    controller.abort()
    await q
    await until(async () => (await running(query_id)) === 0)
  })
  await c('KILL QUERY', async () => {
    const query_id = randomUUID()
    const q = refused(client.query({ query: endless, query_id, format: 'JSON' }), 394)
    await until(async () => (await running(query_id)) === 1)
    const r = await client.query({ query: 'KILL QUERY WHERE query_id = ' + `'${query_id}'` + ' SYNC', format: 'JSON' })
    assert.strictEqual((await r.json()).data[0].query_id, query_id)
    await q
  })
  await c('the same query id', async () => {
    const query_id = randomUUID()
    const q = refused(client.query({ query: endless, query_id, format: 'JSON' }), 394)
    await until(async () => (await running(query_id)) === 1)
    await refused(client.query({ query: 'SELECT 1', query_id, format: 'JSON' }), 216)
    await client.query({ query: 'SELECT 1', query_id, format: 'JSON', clickhouse_settings: { replace_running_query: 1 } })
    await q
  })
  await c('many at a time', async () => {
    const all = await Promise.all(Array.from({ length: 40 }, async (_, i) => (await client.query({ query: 'SELECT {i:UInt8} AS i', query_params: { i }, format: 'JSONEachRow' })).json()))
    assert.deepStrictEqual(all.map((x) => x[0].i), Array.from({ length: 40 }, (_, i) => i))
  })
  await c('exec', async () => {
    const r = await client.exec({ query: 'SELECT 42 FORMAT TSV' })
    let text = ''
    for await (const chunk of r.stream) text += chunk
    assert.strictEqual(text, '42\n')
  })
  await client.close()
}

async function main() {
  await everything('plain', { request: false, response: false })
  await everything('gzip', { request: true, response: true })
  await check('wrong password', async () => {
    const c = createClient({ url, username, password: 'wrong' })
    await refused(c.query({ query: 'SELECT 1', format: 'JSON' }), 516)
    await c.close()
  })
  process.exit(failed ? 1 : 0)
}
main()
