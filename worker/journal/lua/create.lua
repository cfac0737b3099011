-- create(sid, deadline_ms, grace_ms, n_events, n_labels, events: key body ..., labels: name value ...,
--        follow: step queue ...) -> {'ok', length, 0, {step queue ...}} | {'gone'}
-- Starts a session once. Keys without TTL: retention removes them after the artifacts are verified.
local sid, grace = ARGV[1], tonumber(ARGV[3])
local n_events, n_labels = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('HSETNX', session_key(sid), 'status', 'open') == 0 then return {'gone'} end
redis.call('HSET', session_key(sid), 'created_ms', int(now), 'fence', '0')
local at = 6
for _ = 1, n_events do
  put(sid, ARGV[at], ARGV[at + 1], '-', '0', '-')
  at = at + 2
end
for _ = 1, n_labels do
  redis.call('HSET', session_key(sid), 'label:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
redis.call('ZADD', P .. 'sessions', int(now), sid)
local row = row_key(sid, 'deadline')
redis.call('HSET', row, 'queue', 'control', 'state', 'ready', 'not_before',
  int(now + tonumber(ARGV[2])), 'attempt', '0', 'deaths', '0', 'retries', '0', 'tells', '0')
due_at(sid, 'deadline', now + tonumber(ARGV[2]))
local told = announce_all(sid, at, grace)
return {'ok', redis.call('LLEN', journal_key(sid)), 0, told}
