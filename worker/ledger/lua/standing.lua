-- standing(seen) -> {epoch, doubt, mark, nonce, nonce_before, mark_age_ms, newest, has_seen, killed}
--   has_seen: 0 where the transition `seen` was there once and is not; 1 too where it may be trimmed
-- meta hash, j stream; changes nothing
local function parts(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local function is_before(a, b)
  local a_ms, a_n = parts(a)
  local b_ms, b_n = parts(b)
  return a_ms < b_ms or (a_ms == b_ms and a_n < b_n)
end
-- The newest id ever given, also where the entry itself was trimmed.
local function last_id()
  if redis.call('EXISTS', LOG) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', LOG)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end
local function has(seen)
  if is_before(last_id(), seen) then return false end
  local at = redis.call('XRANGE', LOG, seen, seen)
  if at[1] then return true end
  -- Trimming takes the oldest first: with an older one left, this one was never here.
  return not redis.call('XREVRANGE', LOG, '(' .. seen, '-', 'COUNT', 1)[1]
end
local m = redis.call('HMGET', META, 'epoch', 'doubt', 'mark', 'nonce', 'before', 'mark_ms', 'kill')
local newest = last_id()
return {m[1] or '', m[2] or '', tonumber(m[3] or 0), m[4] or '', m[5] or '', m[6] and now_ms() - m[6] or 0,
  newest == '0-0' and '' or newest, (ARGV[1] == '' or has(ARGV[1])) and 1 or 0, m[7] == '1' and 1 or 0}
