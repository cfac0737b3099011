-- reserve(rid, amount, deadline_ms, keep_ms, replaces, kind, model, step, price_version, epoch, scope ...)
--   -> {'ok'} | {'used', state, scope} | {'other'} | {'epoch'} | {'behind', count} | {why, scope, free}
--      why = killed | no_account | closed | frozen | cap
-- a:<scope> hash: held; r:<rid> hash, no TTL while open; open zset; s:<session> list, `keep_ms`; j stream
-- All accounts are charged, or none. Of several without room the tightest is named, so that one
-- smaller call fits them all. `replaces` is voided in the same instant where it is still held; where
-- it was replaced already (an attempt whose reply was lost), the hold that took its place is.
-- `stands_for` remembers the first of them, which is held again if the call comes to nothing.
-- With an `epoch`, nothing is held in another one, nor while somebody doubts it.
local rid, amt, names = ARGV[1], amount(ARGV[2]), table.concat(ARGV, ' ', 11)
local R = reservation_key(rid)
local m = redis.call('HMGET', META, 'kill', 'epoch', 'doubt')
if ARGV[10] ~= '' and (m[2] ~= ARGV[10] or m[3]) then return {'epoch'} end
local was = redis.call('HMGET', R, 'state', 'amount', 'scopes')
if was[1] == 'held' then
  if was[2] == ARGV[2] and was[3] == names then return {'ok'} end
  return {'other'}
end
if was[1] then return {'used', was[1], ARGV[11]} end
if m[1] == '1' then return {'killed', ARGV[11], '0'} end
local waiting = redis.call('XLEN', LOG)
if waiting >= MOST_UNARCHIVED then return {'behind', waiting} end

-- The hold that stands in for `name`: itself, or the last one of those that replaced it.
local function hold_of(name)
  while name and name ~= '' do
    local r = redis.call('HMGET', reservation_key(name), 'state', 'amount', 'scopes', 'replaced_by')
    if r[1] == 'held' then return name, amount(r[2]), r[3] end
    name = r[4]
  end
end
local old, old_amt, old_names = hold_of(ARGV[5])
local given_back = {}
if old then for scope in each_scope(old_names) do given_back[scope] = old_amt end end

local tightest, least
for i = 11, #ARGV do
  local scope = ARGV[i]
  local a = fields_of(scope)
  if not a[1] then return {'no_account', scope, '0'} end
  local room = math.max(a[1] - a[2] - a[3] + (given_back[scope] or 0), 0)
  if a[7] == '1' then return {'closed', scope, int(room)} end
  if a[6] == '1' then return {'frozen', scope, int(room)} end
  if not least or room < least then tightest, least = scope, room end
end
if amt > least then return {'cap', tightest, int(least)} end

local stands_for
if old then
  stands_for = redis.call('HGET', reservation_key(old), 'stands_for') or old
  if stands_for == old then
    redis.call('HSET', reservation_key(old), 'deadline', redis.call('ZSCORE', OPEN, old))
  end
  free_again(old, 'held', old_amt, old_names, 'replaced', ARGV[4])
  redis.call('HSET', reservation_key(old), 'replaced_by', rid)
end
add(names, 'held', amt)
local now = now_ms()
redis.call('HSET', R, 'state', 'held', 'amount', ARGV[2], 'actual', '0', 'over', '0', 'scopes', names, 'kind', ARGV[6],
  'model', ARGV[7], 'step', ARGV[8], 'price_version', ARGV[9], 'created_ms', int(now))
if stands_for then redis.call('HSET', R, 'stands_for', stands_for) end
redis.call('ZADD', OPEN, int(now + ARGV[3]), rid)
for i = 11, #ARGV do
  local session = session_of(ARGV[i])
  if session then redis.call('RPUSH', P .. 's:' .. session, rid) end
end
keep(names, ARGV[4])
log('reserve', 'id', rid, 'amount', ARGV[2], 'scopes', names, 'kind', ARGV[6], 'model', ARGV[7], 'step', ARGV[8])
return {'ok'}
