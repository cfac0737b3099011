-- commit(sid, step, fence, token, ends, expected_length, grace_ms, n_events, events: key body ...,
--        follow: step queue ...) -> {'ok', length, must_drive, {step queue ...}} | {'fenced'} | {'gone'}
-- The events and the steps that follow from them enter in one step, or not at all. Said twice with
-- the same token (the reply was lost), it answers as the first time.
local sid, step, fence, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local grace, n_events = tonumber(ARGV[7]), tonumber(ARGV[8])
local follow = 9 + 2 * n_events
if not is_open(sid) and ARGV[5] == '0' then return {'gone'} end
local entry = redis.call('HGET', index_key(sid), step)
if entry then
  if not string.find(entry, ' ' .. token, 1, true) then return {'fenced'} end
  local again = {}
  for i = follow, #ARGV do again[#again + 1] = ARGV[i] end
  return {'ok', redis.call('LLEN', journal_key(sid)), 0, again}
end
if not holds(sid, step, fence) then return {'fenced'} end
local h = redis.call('HMGET', row_key(sid, step), 'owner', 'attempt')
for i = 9, follow - 1, 2 do put(sid, ARGV[i], ARGV[i + 1], h[1], h[2], token) end
forget(sid, step)
local length = redis.call('LLEN', journal_key(sid))
if ARGV[5] == '1' then
  redis.call('HSET', session_key(sid), 'status', 'ended', 'ended_ms', int(now))
  for _, other in ipairs(redis.call('SMEMBERS', open_key(sid))) do forget(sid, other) end
  forget(sid, 'deadline')
  not_due(sid, 'drive')
  return {'ok', length, 0, {}}
end
local told = announce_all(sid, follow, grace)
return {'ok', length, drive_if_idle(sid), told}
