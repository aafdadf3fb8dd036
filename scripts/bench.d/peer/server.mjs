// As little as can be between HTTP and the library: read the body, hand it over, answer.
import { createServer } from 'node:http'
import { createRequire } from 'node:module'

// Not by `import`: its module for that looks for its migrations by a name that only the other kind of module has.
const { StripeSync, runMigrations } = createRequire(import.meta.url)('@supabase/stripe-sync-engine')

const databaseUrl = process.env.DATABASE_URL
// It swallows what goes wrong, unless it has somewhere to say so.
const logger = { info() {}, error(...what) { console.error(...what); process.exitCode = 1 } }
await runMigrations({ databaseUrl, schema: 'stripe', logger })
if (process.exitCode) process.exit()
const sync = new StripeSync({
  poolConfig: { connectionString: databaseUrl, max: 20 },
  stripeSecretKey: 'sk_test_unused',
  stripeWebhookSecret: process.env.STRIPE_WEBHOOK_SECRET,
  backfillRelatedEntities: false,
  autoExpandLists: false,
})

const server = createServer((request, response) => {
  if (request.url === '/ready') {
    response.writeHead(200, { 'Content-Length': 0 }).end()
    return
  }
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', async () => {
    try {
      await sync.processWebhook(Buffer.concat(parts), request.headers['stripe-signature'])
      response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': 17 }).end('{"received":true}')
    } catch (error) {
      console.error(error)
      response.writeHead(400, { 'Content-Length': 0 }).end()
    }
  })
})
server.listen(Number(process.env.PORT), '127.0.0.1')
