-- commit(sid, step, fence, token, ends, expected_length, grace_ms, given_up, least_open,
--        n_events, events: key body ..., follow: step queue ...)
--   -> {'ok', length, must_drive, {step queue ...}} | {'fenced'} | {'gone'}
-- The events and the steps that follow from them enter in one step, or not at all. Said twice with
-- the same token (the reply was lost), it answers ok, and tells what is still to be told.
local sid, step, fence, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local grace, n_events = tonumber(ARGV[7]), tonumber(ARGV[10])
local follow = 11 + 2 * n_events
local entry = redis.call('HGET', index_key(sid), step)
if entry then
  if string.match(entry, '^%d+ (.*)$') ~= token then return {'fenced'} end
  local again = {}
  for i = follow, #ARGV, 2 do
    if redis.call('HGET', row_key(sid, ARGV[i]), 'state') == 'ready' then
      again[#again + 1] = ARGV[i]
      again[#again + 1] = ARGV[i + 1]
    end
  end
  local must_drive = is_open(sid) and drive_if_below(sid, 1) or 0
  return {'ok', redis.call('LLEN', journal_key(sid)), must_drive, again}
end
if not is_open(sid) then return {'gone'} end
if not holds(sid, step, fence) then return {'fenced'} end
local h = redis.call('HMGET', row_key(sid, step), 'owner', 'attempt', 'deaths')
for i = 11, follow - 1, 2 do put(sid, ARGV[i], ARGV[i + 1], h[1], h[2], token) end
if ARGV[8] ~= '' then bury(sid, step, h[2], h[3], ARGV[8]) end
take_back(sid, step)
local length = redis.call('LLEN', journal_key(sid))
if ARGV[5] == '1' then
  redis.call('HSET', session_key(sid), 'status', 'ended', 'ended_ms', int(now))
  for _, other in ipairs(redis.call('SMEMBERS', open_key(sid))) do forget(sid, other) end
  forget(sid, 'deadline')
  not_due(sid, 'drive')
  return {'ok', length, 0, {}}
end
local told = announce_all(sid, follow, grace)
-- A committer that knew the whole journal has said all that follows. Of one that did not, others wait
-- for widths that it could not know to be free.
local knew_all = length == tonumber(ARGV[6]) + n_events
local least = knew_all and 1 or math.max(1, tonumber(ARGV[9]))
return {'ok', length, drive_if_below(sid, least), told}
