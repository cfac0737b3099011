-- prune(sid, outcome, artifacts_uri) -> 1 | 0 (it is open, unknown, or was pruned before)
-- An ended session leaves but for its hash: who creates it again is told that it is gone, and
-- `labels` says where its artifacts are. Keys are deleted first: a server that is full refuses a script
-- at its first write if that needs memory, and this one is what gives it some back.
local sid = ARGV[1]
local h = redis.call('HMGET', session_key(sid), 'status', 'pruned_ms')
if h[1] ~= 'ended' or h[2] then return 0 end
for _, step in ipairs(redis.call('SMEMBERS', open_key(sid))) do forget(sid, step) end
redis.call('DEL', journal_key(sid), index_key(sid), notes_key(sid), open_key(sid),
  attempts_key(sid))
redis.call('ZREM', P .. 'sessions', sid)
redis.call('HDEL', session_key(sid), 'fence', 'tells')
redis.call('HSET', session_key(sid), 'pruned_ms', int(now), 'outcome', ARGV[2], 'artifacts_uri',
  ARGV[3])
return 1
