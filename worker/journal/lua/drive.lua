-- drive(sid, expected_length, grace_ms, follow: step queue ...)
--   -> {'ok', length, 0, {step queue ...}} | {'moved', length, 1, {}} | {'gone'}
-- Makes the open steps exactly those of `follow`: new ones are announced, ready ones that are not
-- wanted any more go, leased ones are told to stop at their next beat, or no more.
local sid, expected, grace = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not is_open(sid) then
  not_due(sid, 'drive')
  return {'gone'}
end
local length = redis.call('LLEN', journal_key(sid))
if length ~= expected then
  due_at(sid, 'drive', now)
  return {'moved', length, 1, {}}
end
local keep = {}
for i = 4, #ARGV, 2 do keep[ARGV[i]] = true end
for _, step in ipairs(redis.call('SMEMBERS', open_key(sid))) do
  if keep[step] then
    redis.call('HDEL', row_key(sid, step), 'stop')
  else
    if redis.call('HGET', row_key(sid, step), 'state') == 'leased' then
      redis.call('HSET', row_key(sid, step), 'stop', '1')
    else
      take_back(sid, step)
    end
  end
end
local told = announce_all(sid, 4, grace)
if redis.call('SCARD', open_key(sid)) > 0 then
  not_due(sid, 'drive')
  redis.call('HDEL', session_key(sid), 'tells')
else
  -- Only a worker of another version wants nothing of an open session: it stays in sight.
  redis.call('ZADD', DUE, 'NX', int(now + grace), sid .. '/drive')
end
return {'ok', length, 0, told}
